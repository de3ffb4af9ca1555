//! Talking to a running engine over its control socket.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::bpffs::if_it_hangs;
use crate::control::{ControlError, LONGEST, Whole, collect};
use crate::held::Comes;
use crate::listener::listener;
use crate::order::{Applied, ApplyRequest, SaDeleted, SaSelector, paths};
use crate::session::Session;
use crate::status::{PolicyStatus, SaEntry, Status};

/// How long an answer may take that needs no work.
const PATIENCE: Duration = Duration::from_secs(10);

/// After how long it is said that an answer is waited for.
const UNNOTICED: Duration = Duration::from_secs(3);

/// How soon a queue that was full is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// Largest answer that is read, in bytes.
const LARGEST: usize = 256 << 20;

/// Asks a running engine for its status.
///
/// # Errors
///
/// [`ControlError`].
pub fn fetch_status(socket: &Path) -> Result<Status, ControlError> {
    exchange(socket, &Method::GET, paths::STATUS, &(), PATIENCE)
}

/// Has a running engine put a policy in force, or only try to.
///
/// # Errors
///
/// [`ControlError::Refused`] with what is wrong with the policy.
pub fn apply(socket: &Path, request: &ApplyRequest) -> Result<Applied, ControlError> {
    exchange(socket, &Method::POST, paths::POLICY, request, LONGEST)
}

/// Lets the policy stay that a running engine has on trial.
///
/// # Errors
///
/// [`ControlError::Refused`] if none is.
pub fn confirm(socket: &Path) -> Result<PolicyStatus, ControlError> {
    exchange(socket, &Method::POST, paths::CONFIRM, &(), PATIENCE)
}

/// Has a running engine take the policy on trial back.
///
/// # Errors
///
/// [`ControlError::Refused`] if none is.
pub fn roll_back(socket: &Path) -> Result<PolicyStatus, ControlError> {
    exchange(socket, &Method::POST, paths::ROLLBACK, &(), PATIENCE)
}

/// Has a running engine leave its filter standing when it ends, however it was told to end.
///
/// # Errors
///
/// [`ControlError::Unknown`] if it is of a build that cannot be told so.
pub fn keep_filter(socket: &Path) -> Result<(), ControlError> {
    exchange(socket, &Method::POST, paths::KEEP, &(), PATIENCE)
}

/// Asks a running engine how a session comes in which something was typed just now.
///
/// # Errors
///
/// [`ControlError::Unknown`] if it is of a build that cannot tell.
pub(crate) fn fetch_comes(socket: &Path, session: Session) -> Result<Comes, ControlError> {
    exchange(socket, &Method::POST, paths::SESSION, &session, PATIENCE)
}

/// Asks a running engine for its SAs.
///
/// # Errors
///
/// [`ControlError`].
pub fn fetch_sas(socket: &Path) -> Result<Vec<SaEntry>, ControlError> {
    exchange(socket, &Method::GET, paths::SAS, &(), PATIENCE)
}

/// Has a running engine delete an SA; when this returns, neither driver nor workers have it any more.
///
/// # Errors
///
/// [`ControlError::Refused`] if there is none, or more than one.
pub fn delete_sa(socket: &Path, spi: u32, selector: &SaSelector) -> Result<SaDeleted, ControlError> {
    let path = format!("{}/{spi:#x}", paths::SAS);
    exchange(socket, &Method::DELETE, &path, selector, PATIENCE)
}

fn exchange<T: DeserializeOwned>(
    path: &Path,
    method: &Method,
    what: &str,
    body: &impl Serialize,
    patience: Duration,
) -> Result<T, ControlError> {
    let broken = |what: String| ControlError::Answer {
        path: path.to_owned(),
        what,
    };
    let body = serde_json::to_vec(body).map_err(|error| broken(error.to_string()))?;
    let request = Request::builder()
        .method(method)
        .uri(what)
        .header(hyper::header::HOST, "ravelin")
        .body(Whole(Some(body.into())))
        .map_err(|error| broken(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken(error.to_string()))?;
    let process = Cell::new(None);
    let silent = |process: Option<u32>| ControlError::Silent {
        path: path.to_owned(),
        process: process.or_else(|| listener(path)),
    };
    let (code, bytes) = runtime.block_on(async {
        let mut answer = std::pin::pin!(async {
            let connect = timeout(patience.min(PATIENCE), connect(path)).await;
            let stream = connect.map_err(|_| silent(None))?;
            let stream = stream.map_err(|error| ControlError::Connect {
                path: path.to_owned(),
                error,
            })?;
            process.set(process_of(&stream));
            send(stream, request).await.map_err(broken)
        });
        let mut answered = timeout(patience.min(UNNOTICED), &mut answer).await;
        if answered.is_err() {
            eprintln!(
                "ravelin: waiting for an answer on {} for up to {} s{}",
                path.display(),
                patience.as_secs(),
                if_it_hangs(process.get().or_else(|| listener(path)))
            );
            answered = timeout(patience.saturating_sub(UNNOTICED), answer).await;
        }
        answered.map_err(|_| silent(process.get()))?
    })?;
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    match code {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(ControlError::Unknown(text())),
        _ => return Err(ControlError::Refused(text())),
    }
    serde_json::from_slice(&bytes).map_err(|error| broken(format!("not an answer: {error}")))
}

/// A connection, as soon as the engine takes one: it has as many in its queue as there is room for, or takes none out because it is frozen.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(AGAIN).await,
            connected => return connected,
        }
    }
}

/// Who has begun to listen where a connection leads to.
pub(crate) fn process_of(stream: &UnixStream) -> Option<u32> {
    let process = stream.peer_cred().ok()?.pid()?;
    u32::try_from(process).ok().filter(|process| *process > 0)
}

async fn send(stream: UnixStream, request: Request<Whole>) -> Result<(StatusCode, Vec<u8>), String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let code = response.status();
        Ok((code, collect(response.into_body(), LARGEST).await?))
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsRawFd as _;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use hyper::Method;
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
    };

    use super::exchange;
    use crate::control::{Control, ControlError};

    /// A socket that listens and takes nobody in, with as many in its queue as there is room for.
    fn frozen(path: &Path) -> Vec<std::os::fd::OwnedFd> {
        let address = UnixAddr::new(path).expect("an address");
        let open = |flags| socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
        let listener = open(SockFlag::empty());
        bind(listener.as_raw_fd(), &address).expect("bound");
        listen(&listener, Backlog::new(1).expect("a backlog")).expect("listening");
        let mut all = vec![listener];
        loop {
            let client = open(SockFlag::SOCK_NONBLOCK);
            match connect(client.as_raw_fd(), &address) {
                Ok(()) => all.push(client),
                Err(nix::Error::EAGAIN) => return all,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn an_engine_with_a_full_queue_is_named_and_not_waited_for_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("frozen.sock");
        let queue = frozen(&path);
        let begun = Instant::now();
        let patience = Duration::from_millis(300);
        let result = exchange::<()>(&path, &Method::GET, "/", &(), patience);
        let error = result.expect_err("nobody answers");
        let process = std::process::id();
        let named =
            format!("no answer of process {process} in time; if it hangs or is frozen, `kill -9 {process}`");
        assert!(matches!(error, ControlError::Silent { .. }), "{error}");
        assert!(error.to_string().contains(&named), "{error}");

        // Nor does whoever wants to listen there himself; of one that has room he learns by a connection who it is.
        let room = folder.path().join("room.sock");
        let listens = std::os::unix::net::UnixListener::bind(&room).expect("a socket");
        let refused = Control::listen(&room).expect_err("somebody listens").to_string();
        assert!(
            refused.contains(&format!("process {process} listens here already")),
            "{refused}"
        );
        drop(listens);
        let refused = Control::listen(&path).expect_err("somebody listens");
        let named = format!("process {process} listens here already");
        assert!(refused.to_string().contains(&named), "{refused}");
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        assert!(path.exists());

        // A socket that nobody listens to any more is no engine.
        drop(queue);
        let error = exchange::<()>(&path, &Method::GET, "/", &(), patience).expect_err("nobody listens");
        let refused = matches!(&error, ControlError::Connect { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused);
        assert!(refused, "{error}");
    }
}
