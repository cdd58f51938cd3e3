//! `hearth controller`: what works in a cluster.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::args::Controller;
use super::error::Error;
use super::server::{Signals, diagnose, runtime};
use crate::serve::cluster;
use crate::serve::config::{Layers, load};

/// Threads of the control plane.
const THREADS: usize = 2;

/// What still runs when it has ended is cut off after so long.
const LAST: Duration = Duration::from_secs(1);

/// Runs the command.
pub(super) fn run(arguments: &Controller) -> Result<(), Error> {
    let layers = Layers {
        file: arguments.config.clone(),
        environment: super::environment(),
        flags: arguments.flags(),
    };
    let config = load(&layers).map_err(|problems| super::bad_config(&problems))?.config;
    diagnose(&config);
    let runtime = runtime(THREADS)?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let stop = CancellationToken::new();
        let running = cluster::run(config, stop.clone());
        tokio::pin!(running);
        let ended = tokio::select! {
            ended = &mut running => ended,
            () = signals.next() => {
                tracing::info!("stopping");
                stop.cancel();
                tokio::select! {
                    ended = &mut running => ended,
                    // Told twice: the lease runs out, and the next controller finds everything.
                    () = signals.next() => Ok(()),
                }
            }
        };
        ended.map_err(|error| Error::failed(crate::telemetry::chain(&error)))
    });
    // A controller that is none any more must do nothing more, whatever it is at.
    runtime.shutdown_timeout(LAST);
    outcome
}
