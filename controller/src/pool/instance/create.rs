//! The first part of a start: the container.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt as _;
use tokio::time::{Instant, sleep_until};

use super::{NotReady, Task, What, told_to_stop};
use crate::backend::Started;
use crate::pool::failure::Failure;

impl Task {
    /// The container, and when the rest must be done.
    pub(super) async fn create(
        &mut self,
        mut deadline: Instant,
        limit: Duration,
    ) -> Result<(Started, Instant), NotReady> {
        let backend = Arc::clone(&self.backend);
        let (mut orders, mut hindrance) = (self.orders.clone(), self.orders.clone());
        let mut starting = Box::pin(backend.start(&self.spec));
        let mut hindered = false;
        loop {
            tokio::select! {
                // When both are there, the order to stop wins.
                biased;
                grace = told_to_stop(&mut orders) => return Err(NotReady::Told { grace }),
                started = &mut starting => return match started {
                    Ok(started) => {
                        self.report(What::Created).await;
                        // That it goes on may be heard after that it is done.
                        Ok((started, if hindered { Instant::now() + limit } else { deadline }))
                    }
                    Err(error) => Err(NotReady::Failed(Failure::backend(&error))),
                },
                Ok(()) = hindrance.wait_for(|orders| orders.hindered != hindered).map_ok(drop) => {
                    hindered = !hindered;
                    if !hindered {
                        // Its time begins now.
                        deadline = Instant::now() + limit;
                    }
                }
                () = sleep_until(deadline), if !hindered => {
                    return Err(NotReady::Failed(Failure::timeout("come into being", limit)));
                }
            }
        }
    }
}
