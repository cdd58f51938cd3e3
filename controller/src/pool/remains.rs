//! Taking away what is no instance of this controller: what an earlier run left, and whatever a task that has panicked leaves.

use std::sync::Arc;
use std::time::Duration;

use hearth_function::InstanceId;
use tokio::sync::watch;
use tokio::task::Id;

use super::Pool;
use super::instance::{self, Orders, Wish};

impl Pool {
    /// Takes away an instance that nobody wants any more, or what is left of it.
    pub fn reap(&mut self, instance: InstanceId, grace: Duration) {
        self.take_away(instance, grace);
    }

    /// Leaves what is taken away no time any more, also where its stop has begun.
    pub fn kill_remains(&mut self) {
        for orders in &self.remains {
            orders.send_modify(|orders| orders.wish = Wish::Stop { grace: Duration::ZERO });
        }
    }

    pub(super) fn take_away(&mut self, instance: InstanceId, grace: Duration) -> Id {
        let (backend, reports) = (Arc::clone(&self.backend), self.reporter.clone());
        let (orders, told) = watch::channel(Orders::NONE);
        self.remains.retain(|orders| !orders.is_closed());
        self.remains.push(orders);
        let work = async move { instance::take_away(&backend, &instance, grace, told, &reports).await };
        self.tasks.spawn(work).id()
    }
}
