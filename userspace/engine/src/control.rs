//! The control socket: HTTP and JSON over a Unix socket, for root and the user that runs the engine.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame as BodyFrame};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::unistd::geteuid;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::status::Status;

/// Path of the status.
const STATUS: &str = "/v1/status";

/// How long a client may take for a request, and a server for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Largest answer a client reads.
const LARGEST: usize = 16 << 20;

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
    /// The answer is not one.
    #[error("control socket {path}: {what}")]
    Answer {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        what: String,
    },
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
            match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => return Err(failed(io::Error::other("another engine listens here"))),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers one client after the other with what `status` gives. Never returns.
    pub(crate) async fn serve(&self, status: impl Fn() -> Result<Status, String>) {
        loop {
            // A client that vanished before it was accepted is none.
            let Ok((stream, _)) = self.listener.accept().await else {
                continue;
            };
            if !is_authorised(&stream) {
                continue;
            }
            let service = service_fn(|request| answer(request, &status));
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            // Client errors are the client's; a slow one is cut off.
            let _ = timeout(PATIENCE, connection).await;
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The file's mode keeps others out already; the peer's credentials hold even where the mode was changed.
fn is_authorised(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

async fn answer<B>(
    request: Request<B>,
    status: &impl Fn() -> Result<Status, String>,
) -> Result<Response<Whole>, std::convert::Infallible> {
    let (code, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, STATUS) => match status()
            .and_then(|status| serde_json::to_string(&status).map_err(|error| error.to_string()))
        {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error),
        },
        _ => (StatusCode::NOT_FOUND, format!("there is GET {STATUS}")),
    };
    let mut response = Response::new(Whole(Some(text.into())));
    *response.status_mut() = code;
    Ok(response)
}

/// A body in one piece.
struct Whole(Option<Bytes>);

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

/// Asks a running engine for its status.
///
/// # Errors
///
/// [`ControlError`].
pub fn fetch_status(path: &Path) -> Result<Status, ControlError> {
    let broken = |what: String| ControlError::Answer {
        path: path.to_owned(),
        what,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken(error.to_string()))?;
    runtime.block_on(async {
        let connect = UnixStream::connect(path).await;
        let stream = connect.map_err(|error| ControlError::Connect {
            path: path.to_owned(),
            error,
        })?;
        let text = timeout(PATIENCE, get(stream))
            .await
            .map_err(|_| broken("no answer in time".to_owned()))?;
        let bytes = text.map_err(broken)?;
        serde_json::from_slice(&bytes).map_err(|error| broken(format!("not a status: {error}")))
    })
}

async fn get(stream: UnixStream) -> Result<Vec<u8>, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::get(STATUS)
        .header(hyper::header::HOST, "ravelin")
        .body(Whole(None))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let code = response.status();
        let bytes = collect(response.into_body()).await?;
        if code == StatusCode::OK {
            return Ok(bytes);
        }
        Err(format!("{code}: {}", String::from_utf8_lossy(&bytes)))
    };
    both(exchange, connection).await
}

/// Drives the exchange and its connection together until the exchange is done.
async fn both<T>(
    exchange: impl Future<Output = Result<T, String>>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
) -> Result<T, String> {
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    let mut connected = true;
    std::future::poll_fn(|context| {
        if connected && connection.as_mut().poll(context).is_ready() {
            connected = false;
        }
        exchange.as_mut().poll(context)
    })
    .await
}

async fn collect(body: impl Body<Data = Bytes, Error = hyper::Error>) -> Result<Vec<u8>, String> {
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(frame) = std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await {
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > LARGEST {
            return Err("the answer is too large".to_owned());
        }
    }
    Ok(bytes)
}
