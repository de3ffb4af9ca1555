//! The control socket: HTTP and JSON over a Unix socket, for root and the user that runs the engine.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame as BodyFrame};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};
use nix::unistd::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::Sender;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::bpffs::if_it_hangs;
use crate::listener::listener;
use crate::order::{Order, Reply, paths};

/// How long a client may take for a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a request and its answer may take together: the largest policies need some seconds.
pub(crate) const LONGEST: Duration = Duration::from_secs(120);

/// Clients that are served at a time; others wait.
const CLIENTS: usize = 16;

/// Largest request in bytes.
const LARGEST_ORDER: usize = 64 << 10;

/// What went wrong with the control socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The socket cannot be made.
    #[error("control socket {path}: {error}; choose another with `--control`")]
    Listen {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// Nobody answers.
    #[error("control socket {path}: {error}; is `ravelin run` running? Name its socket with `--control`")]
    Connect {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// Somebody listens and says nothing.
    #[error("control socket {path}: {}{}", silent(*.process), if_it_hangs(*.process))]
    Silent {
        /// Its path.
        path: PathBuf,
        /// Who has begun to listen there, if it can be seen.
        process: Option<u32>,
    },
    /// The engine refused.
    #[error("{0}")]
    Refused(String),
    /// The engine is of another build, which does not know the request.
    #[error("the engine is of another build and does not know what was asked: {0}")]
    Unknown(String),
    /// The answer is not one.
    #[error("control socket {path}: {what}")]
    Answer {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        what: String,
    },
}

fn silent(process: Option<u32>) -> String {
    process.map_or_else(
        || "no answer in time".to_owned(),
        |process| format!("no answer of process {process} in time"),
    )
}

/// A listening control socket; the file is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens. A socket file that nobody listens to any more is replaced. Needs a Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`ControlError::Listen`].
    pub(crate) fn listen(path: &Path) -> Result<Self, ControlError> {
        let failed = |error| ControlError::Listen {
            path: path.to_owned(),
            error,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        if path.exists() {
            match probe(path) {
                Ok(process) => return Err(failed(taken(process))),
                // As many wait for somebody who listens as there is room for.
                Err(Errno::EAGAIN) => return Err(failed(taken(listener(path)))),
                Err(Errno::ECONNREFUSED) => std::fs::remove_file(path).map_err(failed)?,
                Err(error) => return Err(failed(error.into())),
            }
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers clients, several at a time; what they want done goes to the engine. Never returns.
    pub(crate) async fn serve(self, orders: Sender<Order>) {
        let room = Arc::new(Semaphore::new(CLIENTS));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            // A client that vanished before it was accepted is none.
            let Ok((stream, _)) = self.listener.accept().await else {
                continue;
            };
            if !is_authorised(&stream) {
                continue;
            }
            let orders = orders.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| answer(request, &orders));
                let connection = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .serve_connection(TokioIo::new(stream), service);
                // Client errors are the client's; a slow one is cut off.
                let _ = timeout(LONGEST, connection).await;
                drop(place);
            });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Who listens there, without waiting until they take anybody in.
fn probe(path: &Path) -> nix::Result<Option<u32>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(probe.as_raw_fd(), &UnixAddr::new(path)?)?;
    let process = getsockopt(&probe, PeerCredentials).map(|peer| peer.pid());
    Ok(process
        .ok()
        .and_then(|process| u32::try_from(process).ok().filter(|process| *process > 0)))
}

fn taken(process: Option<u32>) -> io::Error {
    let who = process.map_or_else(
        || "another engine".to_owned(),
        |process| format!("process {process}"),
    );
    io::Error::other(format!("{who} listens here already{}", if_it_hangs(process)))
}

/// The file's mode keeps others out already; the peer's credentials hold even where the mode was changed.
fn is_authorised(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

async fn answer<B>(
    request: Request<B>,
    orders: &Sender<Order>,
) -> Result<Response<Whole>, std::convert::Infallible>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let result = match (request.method(), request.uri().path()) {
        (&Method::GET, paths::STATUS) => ask(orders, Order::Status).await,
        (&Method::POST, paths::POLICY) => match read(request.into_body()).await {
            Ok(wanted) => ask(orders, |reply| Order::Apply(wanted, reply)).await,
            Err(error) => Err((StatusCode::BAD_REQUEST, error)),
        },
        (&Method::POST, paths::CONFIRM) => ask(orders, Order::Confirm).await,
        (&Method::POST, paths::ROLLBACK) => ask(orders, Order::RollBack).await,
        (&Method::POST, paths::KEEP) => ask(orders, Order::Keep).await,
        (&Method::POST, paths::SESSION) => match read(request.into_body()).await {
            Ok(session) => ask(orders, |reply| Order::Session(session, reply)).await,
            Err(error) => Err((StatusCode::BAD_REQUEST, error)),
        },
        (&Method::GET, paths::SAS) => ask(orders, Order::Sas).await,
        (&Method::DELETE, path) if let Some(spi) = spi_in(path) => match spi {
            Ok(spi) => match read_or_default(request.into_body()).await {
                Ok(selector) => ask(orders, |reply| Order::DeleteSa(spi, selector, reply)).await,
                Err(error) => Err((StatusCode::BAD_REQUEST, error)),
            },
            Err(error) => Err((StatusCode::BAD_REQUEST, error)),
        },
        _ => Err((
            StatusCode::NOT_FOUND,
            format!(
                "there is GET {}, POST {}, POST {}, POST {}, POST {}, POST {}, GET {sas} and DELETE {sas}/SPI",
                paths::STATUS,
                paths::POLICY,
                paths::CONFIRM,
                paths::ROLLBACK,
                paths::KEEP,
                paths::SESSION,
                sas = paths::SAS
            ),
        )),
    };
    let (code, text) = result.map_or_else(|refusal| refusal, |text| (StatusCode::OK, text));
    let mut response = Response::new(Whole(Some(text.into())));
    *response.status_mut() = code;
    Ok(response)
}

/// Has the engine do something; what it answers, as JSON.
async fn ask<T: Serialize>(
    orders: &Sender<Order>,
    order: impl FnOnce(Reply<T>) -> Order,
) -> Result<String, (StatusCode, String)> {
    let (reply, answer) = oneshot::channel();
    let stopping = || {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the engine is stopping".to_owned(),
        )
    };
    orders.send(order(reply)).await.map_err(|_| stopping())?;
    let answer = answer.await.map_err(|_| stopping())?;
    let answer = answer.map_err(|refusal| (StatusCode::CONFLICT, refusal))?;
    serde_json::to_string(&answer).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// The SPI that a path below [`paths::SAS`] names.
fn spi_in(path: &str) -> Option<Result<u32, String>> {
    let text = path.strip_prefix(paths::SAS)?.strip_prefix('/')?;
    let spi = parse_spi(text);
    Some(spi.ok_or_else(|| "an SPI is 256 to 4294967295, or 0x100 to 0xffffffff".to_owned()))
}

/// An SPI as people write it: decimal, or hexadecimal with `0x` in front. `None` for what is none, or reserved.
#[must_use]
pub fn parse_spi(text: &str) -> Option<u32> {
    let spi = match text.strip_prefix("0x") {
        Some(digits) if digits.starts_with(|first: char| first.is_ascii_hexdigit()) => {
            u32::from_str_radix(digits, 16).ok()
        }
        Some(_) => None,
        None if text.starts_with(|first: char| first.is_ascii_digit()) => text.parse().ok(),
        None => None,
    };
    spi.filter(|spi| *spi > 255)
}

async fn read<T, B>(body: B) -> Result<T, String>
where
    T: DeserializeOwned,
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    parse(&whole(body).await?)
}

/// What an empty body stands for as well.
async fn read_or_default<T, B>(body: B) -> Result<T, String>
where
    T: DeserializeOwned + Default,
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    match &*whole(body).await? {
        [] => Ok(T::default()),
        bytes => parse(bytes),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("not a request: {error}"))
}

async fn whole<B>(body: B) -> Result<Vec<u8>, String>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    timeout(PATIENCE, collect(body, LARGEST_ORDER))
        .await
        .map_err(|_| "the request did not end in time".to_owned())?
}

/// A body in one piece.
pub(crate) struct Whole(pub(crate) Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<BodyFrame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(BodyFrame::data(bytes))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// A body's bytes, if they are not more than `limit`.
pub(crate) async fn collect<B>(body: B, limit: usize) -> Result<Vec<u8>, String>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > limit {
            return Err(format!("longer than {limit} bytes"));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse_spi;

    #[test]
    fn spis_as_people_write_them() {
        for (text, spi) in [
            ("256", Some(256)),
            ("0x1001", Some(0x1001)),
            ("0x00001001", Some(0x1001)),
            ("4294967295", Some(u32::MAX)),
            ("0xffffffff", Some(u32::MAX)),
            ("255", None),
            ("0", None),
            ("4294967296", None),
            ("0x100000000", None),
            ("", None),
            ("0x", None),
            ("0x+100", None),
            ("+256", None),
            ("-1", None),
            ("1001h", None),
            ("256/", None),
        ] {
            assert_eq!(parse_spi(text), spi, "{text}");
        }
    }
}
