//! Messages of [`coffer_token::lease`] on a connection.

use std::io;

use coffer_token::lease::{FRAME_HEADER_BYTES, FrameError, frame_length, from_frame, to_frame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// No message came, or none could be sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no message of ours.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The next message; `None` where the peer has closed between two.
///
/// Not to be dropped half way: what was read of a message would be lost.
///
/// # Errors
/// See [`WireError`].
pub async fn receive<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>, WireError> {
    let mut header = [0; FRAME_HEADER_BYTES];
    if from.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut header[1..]).await?;
    let mut body = vec![0; frame_length(header)?];
    from.read_exact(&mut body).await?;
    Ok(Some(from_frame(&body)?))
}

/// Sends one message, all the way out.
///
/// # Errors
/// See [`WireError`].
pub async fn send(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> Result<(), WireError> {
    to.write_all(&to_frame(message)?).await?;
    Ok(to.flush().await?)
}
