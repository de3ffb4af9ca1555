//! Talking to a running engine over its control socket.

use std::future::Future;
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
use crate::order::{Applied, ApplyRequest, SaDeleted, SaSelector, paths};
use crate::session::Session;
use crate::status::{PolicyStatus, SaEntry, Status};

/// How long an answer may take that needs no work.
const PATIENCE: Duration = Duration::from_secs(10);

/// After how long it is said that an answer is waited for.
const UNNOTICED: Duration = Duration::from_secs(3);

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
    let (code, bytes) = runtime.block_on(async {
        let connect = UnixStream::connect(path).await;
        let stream = connect.map_err(|error| ControlError::Connect {
            path: path.to_owned(),
            error,
        })?;
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let process = process.and_then(|process| u32::try_from(process).ok().filter(|process| *process > 0));
        let mut answer = std::pin::pin!(send(stream, request));
        let mut answered = timeout(patience.min(UNNOTICED), &mut answer).await;
        if answered.is_err() {
            eprintln!(
                "ravelin: waiting for an answer on {} for up to {} s{}",
                path.display(),
                patience.as_secs(),
                if_it_hangs(process)
            );
            answered = timeout(patience.saturating_sub(UNNOTICED), answer).await;
        }
        answered
            .map_err(|_| ControlError::Silent {
                path: path.to_owned(),
                process,
            })?
            .map_err(broken)
    })?;
    let text = || String::from_utf8_lossy(&bytes).into_owned();
    match code {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(ControlError::Unknown(text())),
        _ => return Err(ControlError::Refused(text())),
    }
    serde_json::from_slice(&bytes).map_err(|error| broken(format!("not an answer: {error}")))
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
