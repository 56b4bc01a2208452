//! What is said at the door of who is thrown out: lists go to whoever lacks them, and the revoked get the proof.

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use libp2p::core::muxing::SubstreamBox;
use paceline_proto::revocation::{SIGNERS_MAX, SignedList};

use super::{Answer, Door, Refused, Side, has_read};
use crate::control::frames::{self, FrameError};

/// How many lists follow.
pub(super) fn count(lists: &[SignedList]) -> u8 {
    u8::try_from(lists.len()).unwrap_or(u8::MAX)
}

/// Writes lists, a frame each.
pub(super) async fn put(stream: &mut (impl AsyncWrite + Unpin), lists: &[SignedList]) -> Result<(), FrameError> {
    for list in lists {
        frames::put(stream, list).await?;
    }
    Ok(())
}

/// Reads so many lists of a member.
pub(super) async fn get(stream: &mut (impl AsyncRead + Unpin), count: u8) -> Result<Vec<SignedList>, Refused> {
    if usize::from(count) > SIGNERS_MAX {
        return Err(Refused::ByUs(format!("{count} lists of the revoked")));
    }
    let mut lists = Vec::new();
    for _ in 0..count {
        lists.push(frames::get(stream).await?);
    }
    Ok(lists)
}

impl Door {
    /// What to hand to a member whose lists have this mark.
    pub(super) fn lists(&self, mark: u64) -> Vec<SignedList> {
        let known = self.trust.revocations();
        let of_use = matches!(self.side, Side::Member { .. }) && known.mark() != mark;
        if of_use { known.lists() } else { Vec::new() }
    }

    /// Takes a member's lists in, on disk before this returns.
    pub(super) async fn learn(&self, lists: Vec<SignedList>) -> Result<(), Refused> {
        if lists.is_empty() {
            return Ok(());
        }
        let trust = self.trust.clone();
        let taken = tokio::task::spawn_blocking(move || trust.take_revocations(&lists)).await;
        match taken {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(Refused::ByUs(e.to_string())),
            Err(e) => Err(Refused::Broken(e.to_string())),
        }
    }

    /// Tells the peer why, and gives it the time to read it: QUIC's close throws unsent data away.
    pub(super) async fn refuse(&self, theirs: &mut SubstreamBox, ours: &mut SubstreamBox, why: Refused) -> Refused {
        let last = why.lasts();
        let (answer, lists) = match &why {
            // Nobody is to believe a single member that it is out: it gets the proof.
            Refused::Revoked(error) => {
                let lists = self.trust.revocations().lists();
                (Answer::Revoked { reason: error.to_string(), lists: count(&lists) }, lists)
            }
            Refused::ByUs(reason) | Refused::Later(reason) => {
                (Answer::Refused { reason: reason.clone(), last }, Vec::new())
            }
            other => (Answer::Refused { reason: other.to_string(), last }, Vec::new()),
        };
        let told = async {
            frames::put(theirs, &answer).await?;
            put(theirs, &lists).await
        };
        if told.await.is_ok() {
            let _ = theirs.close().await;
            let _ = ours.close().await;
            has_read(theirs).await;
        }
        why
    }
}
