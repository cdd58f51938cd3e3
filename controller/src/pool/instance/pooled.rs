//! The part of a life before the function is known, and how the function comes.

use std::sync::Arc;
use std::time::Duration;

use hearth_dispatch::StartKind;
use hearth_protocol::Signature;
use tokio::time::Instant;

use super::{Assignment, FAILED_GRACE, NotReady, Phases, Serving, Task, What, Wish};
use crate::backend::{self, Exit, Limits, Started, control};
use crate::pool::class::Class;
use crate::pool::failure::Failure;
use crate::pool::pump::LastLines;
use crate::pool::template::Template;

/// How long a pooled instance may take to come up and be exercised, for functions that nobody knows yet.
pub(super) const STAND_BY: Duration = Duration::from_secs(60);

/// Pings that a pooled instance is exercised with: the first loads and runs what a load needs, the second finds it done.
const PINGS: u32 = 2;

/// How a pooled instance came to its end without a function.
struct End {
    /// By itself, so.
    exit: Option<Exit>,
    grace: Duration,
}

impl NotReady {
    /// The same, when the function has no part in it.
    fn platform(self) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(failure.platform()),
            told @ Self::Told { .. } => told,
        }
    }
}

impl Task {
    /// The life of a pooled instance: it comes up without a function, waits for one, and lives on as that function's.
    pub(super) async fn stand_by(
        &mut self,
        class: &Class,
        started: &Started,
        mut phases: Phases,
        deadline: Instant,
        lines: &LastLines,
    ) {
        let began = Instant::now();
        let warmed = match self.warm_up(started, &mut phases, deadline).await {
            // It has given way for long enough: what comes next, somebody waits for.
            Ok(pending) => self.limit(&class.limits()).await.map(|()| pending),
            Err(error) => Err(error),
        };
        let mut pending = match warmed {
            Ok(pending) => pending,
            Err(error) => {
                let total = phases.create + began.elapsed();
                return self.go_on(Err(error), phases, total, lines).await;
            }
        };
        // What it holds is for the budget of the pools; an instance that cannot be measured holds nothing that is known.
        let memory_bytes = self.backend.stats(&self.spec.id).await.map_or(0, |stats| stats.memory_bytes);
        self.report(What::Pooled { phases, memory_bytes }).await;
        let assignment = match self.assigned().await {
            Ok(assignment) => assignment,
            Err(end) => {
                if let Some(exit) = end.exit {
                    self.report(What::Ended { exit }).await;
                }
                return self.remove(end.grace).await;
            }
        };
        let Assignment { template, waited, at, since } = assignment;
        // Whatever it prints from here on is the function's.
        let template = Arc::clone(self.template.get_or_init(|| template));
        let mut phases = Phases { schedule: waited, ..Phases::default() };
        let loaded = self.specialise(class, &template, since, &mut pending, &mut phases).await;
        let ready = loaded.map(|signature| {
            let time = waited + at.elapsed();
            let endpoint = self.endpoint(started, &template, signature, StartKind::Prewarmed, time);
            Serving { endpoint, served: 0, connection: pending }
        });
        self.go_on(ready, phases, at.elapsed(), lines).await;
    }

    /// Brings a pooled runtime up and has it load and run, with code of its own, what a function's load will need.
    async fn warm_up(
        &self,
        started: &Started,
        phases: &mut Phases,
        deadline: Instant,
    ) -> Result<control::Pending, NotReady> {
        let warming_up = async {
            let mut pending = control::Pending::connect(&started.invoke, &self.spec.secret, deadline).await?;
            let times = pending.times();
            phases.boot = times.connect + times.boot;
            for _ in 0..PINGS {
                pending.ping(deadline).await?;
            }
            Ok::<_, control::Error>(pending)
        };
        self.unless_it_ends(warming_up, STAND_BY).await
    }

    /// Makes a pooled instance the function's own.
    async fn specialise(
        &self,
        class: &Class,
        template: &Template,
        since: jiff::Timestamp,
        pending: &mut control::Pending,
        phases: &mut Phases,
    ) -> Result<Signature, NotReady> {
        let began = Instant::now();
        let deadline = began + template.start_timeout;
        // Without a cpu quota, as in every start: that takes effect when it is Ready.
        let unhurried = Limits { cpu_millis: None, ..template.limits };
        // What goes wrong here is not the function's fault: another instance may do.
        if unhurried != class.limits() {
            self.limit(&unhurried).await.map_err(NotReady::platform)?;
        }
        let platform = |error: backend::Error| NotReady::Failed(Failure::backend(&error)).platform();
        // What has no code to mount has no class either, and never comes here.
        if let Some(code) = &template.code {
            self.backend.inject(&self.spec.id, code).await.map_err(platform)?;
        }
        phases.create = began.elapsed();
        let loading = pending.load(template.load_for_pooled(), deadline);
        // While it loads. Until then it is nobody's, and is taken away by a controller that comes back; one for a single call is in any case.
        let recording = async {
            match &template.code {
                Some(code) if !template.single_use => {
                    self.backend.record(&self.spec.id, &template.owner_since(since), code).await
                }
                _ => Ok(()),
            }
        };
        let (loaded, recorded) =
            tokio::join!(self.unless_it_ends(loading, template.start_timeout), recording);
        let loaded = loaded?;
        recorded.map_err(platform)?;
        phases.load = loaded.load;
        if template.limits != unhurried {
            self.limit(&template.limits).await?;
        }
        Ok(loaded.signature)
    }

    /// Waits for the function of a pooled instance.
    async fn assigned(&mut self) -> Result<Assignment, End> {
        loop {
            let now = self.orders.borrow_and_update().clone();
            match (now.exit, now.wish, now.assignment) {
                (Some(exit), ..) => {
                    return Err(End { exit: Some(exit), grace: Duration::ZERO });
                }
                (None, Wish::Stop { grace }, _) => return Err(End { exit: None, grace }),
                (None, Wish::Drain { .. }, _) => return Err(End { exit: None, grace: FAILED_GRACE }),
                (None, Wish::Run, Some(assignment)) => return Ok(assignment),
                (None, Wish::Run, None) => {}
            }
            if self.orders.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}
