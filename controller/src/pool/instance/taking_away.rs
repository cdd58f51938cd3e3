//! The last part of a life: the backend takes the instance away.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hearth_function::InstanceId;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::{Orders, Report, What, Wish};
use crate::backend::{self, Backend};
use crate::telemetry::chain;

/// How far apart the backend is asked to take an instance away: twice as long each time, up to the most.
const STOP_PAUSE: Duration = Duration::from_millis(200);
const STOP_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Takes away what is left of an instance, or all of it when it still runs; `orders` may shorten `grace` meanwhile. One that the backend
/// cannot take away is not forgotten: its memory and its processor time are still gone, so it counts, and the backend is asked until it can.
/// What has had its grace gets no more: with a grace, a Pod waits for a word of its node, and a node that is lost says none.
pub(in crate::pool) async fn take_away(
    backend: &Arc<dyn Backend>,
    instance: &InstanceId,
    mut grace: Duration,
    mut orders: watch::Receiver<Orders>,
    reports: &mpsc::Sender<Report>,
) {
    let mut pause = STOP_PAUSE;
    let mut asked = Instant::now();
    while let Err(error) = stop(backend.as_ref(), instance, &mut grace, &mut orders).await {
        if pause >= STOP_PAUSE * 8 {
            let (error, again) = (chain(&error as &backend::Error), humantime::format_duration(pause));
            tracing::error!(%instance, error, %again, "an instance cannot be taken away");
        }
        let _nobody =
            reports.send(Report { instance: instance.clone(), what: What::NotRemoved }).await.is_err();
        // One that failed at once may not have been told to end yet.
        if !grace.is_zero() && asked.elapsed() >= grace {
            let (error, had) = (chain(&error as &backend::Error), humantime::format_duration(grace));
            tracing::warn!(%instance, error, %had, "an instance did not end in its grace: it gets none any more");
            grace = Duration::ZERO;
        }
        sleep(pause).await;
        asked = Instant::now();
        pause = (pause * 2).min(STOP_PAUSE_MAX);
    }
}

/// Has the backend stop an instance, and once more for each wish with less grace than the last, which `grace` says.
fn stop<'a>(
    backend: &'a dyn Backend,
    instance: &'a InstanceId,
    grace: &'a mut Duration,
    orders: &'a mut watch::Receiver<Orders>,
) -> BoxFuture<'a, Result<(), backend::Error>> {
    async move {
        let mut first = backend.stop(instance, *grace);
        *grace = tokio::select! {
            // What is over needs no second call.
            biased;
            stopped = &mut first => return stopped,
            less = less_grace(orders, *grace) => less,
        };
        // Both to their end: one that was dropped while it tidies up could leave something.
        let (first, again) = tokio::join!(first, stop(backend, instance, grace, orders));
        again.or(first)
    }
    .boxed()
}

/// Waits until the instance is to stop with less grace than it has.
async fn less_grace(orders: &mut watch::Receiver<Orders>, than: Duration) -> Duration {
    let less = |orders: &Orders| match orders.wish {
        Wish::Stop { grace } => Some(grace).filter(|grace| *grace < than),
        Wish::Run | Wish::Drain { .. } => None,
    };
    let told = orders.wait_for(|orders| less(orders).is_some()).await.map(|orders| less(&orders));
    match told {
        Ok(Some(grace)) => grace,
        _ => std::future::pending().await,
    }
}
