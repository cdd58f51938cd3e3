//! `hearth gateway`: what takes requests in a cluster.

use tokio_util::sync::CancellationToken;

use super::args::Gateway;
use super::error::Error;
use super::server::{Signals, block_on, diagnose};
use crate::serve::cluster;
use crate::serve::config::{Layers, load};

/// Runs the command.
pub(super) fn run(arguments: &Gateway) -> Result<(), Error> {
    let layers = Layers {
        file: arguments.config.clone(),
        environment: super::environment(),
        flags: arguments.flags(),
    };
    let effective = load(&layers).map_err(|problems| super::bad_config(&problems))?;
    diagnose(&effective.config);
    block_on(async {
        let mut signals = Signals::new()?;
        let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
        let running = cluster::gateway(effective, stop.clone(), hurry.clone());
        tokio::pin!(running);
        let ended = loop {
            tokio::select! {
                ended = &mut running => break ended,
                // Told twice: nobody waits any more.
                () = signals.next() => if stop.is_cancelled() { hurry.cancel() } else { stop.cancel() },
            }
        };
        ended.map_err(|error| Error::failed(crate::telemetry::chain(&error)))
    })
}
