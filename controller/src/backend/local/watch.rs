//! Waiting for the end of a process that need not be a child.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Waits until the process that a pidfd stands for has ended.
///
/// # Errors
/// When the descriptor cannot be watched.
pub(in crate::backend) async fn end(pidfd: &OwnedFd) -> io::Result<()> {
    // A pidfd is readable from the end of its process on, and only then.
    readiness(pidfd.try_clone()?)?.readable().await.map(drop)
}

/// Whether the process that a pidfd stands for has ended.
pub(in crate::backend) fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

#[expect(unsafe_code, reason = "tokio wants to be promised that the descriptor stays what it is")]
fn readiness(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same one, for as long as it lives; it lives in what is returned.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}
