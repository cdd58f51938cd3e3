//! Ports that a test gives to what it starts.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Mutex;

/// Below the ports that the kernel picks for connections and for `:0`, and below those of Kubernetes' Services.
const RANGE: std::ops::Range<u16> = 20_000..30_000;

/// What this process has claimed: a port stays its own until it ends.
static CLAIMED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port that nobody listens on and that no other test is given, in this process or in one beside it: what listens there is started
/// later. A socket that is bound to port 0 and closed promises neither, for the kernel may give its port to the next that asks.
pub(crate) fn free_port() -> u16 {
    let directory = std::env::temp_dir().join("hearth-test-ports");
    std::fs::create_dir_all(&directory).expect("a temporary directory is ours");
    let (port, file) =
        RANGE.into_iter().find_map(|port| Some((port, claim(&directory, port)?))).expect("a port is free");
    CLAIMED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(file);
    port
}

/// The lock on a port that is this process's own, unless another has it or somebody listens there.
fn claim(directory: &Path, port: u16) -> Option<File> {
    let file =
        File::options().create(true).truncate(false).write(true).open(directory.join(port.to_string()));
    let file = file.expect("a file for a lock opens");
    file.try_lock().ok()?;
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
    Some(file)
}
