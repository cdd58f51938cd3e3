//! Carries out what `decide` says.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::telemetry::Seldom;

use super::decide::{Lost, Role, STRANGERS, Seen, Step, Timing, decide};
use super::{HUB_ANNOTATION, Identity, KEY_ANNOTATION, MADE_BY, NAME, Watch};

/// After a request that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// For a Lease that was never read: its watch tells when it has been.
const UNHEARD: Duration = Duration::from_secs(30);

/// Why the Lease cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refuses, or is away.
    #[error("cannot {doing} the lease {NAME}")]
    Request {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        #[source]
        source: Box<kube::Error>,
    },
    /// It does not answer.
    #[error("the API server does not answer")]
    Silent,
    /// It is another Hearth's.
    #[error(
        "it is of another Hearth, or of this one before its key was changed ({}): it is taken when nobody of that one has come back for {} s; a namespace takes \
         one Hearth, so install this one into another, or delete the lease {NAME} if there is no other",
        holder.as_deref().map_or_else(|| "given back".to_owned(), |holder| format!("held by {holder}")), STRANGERS.as_secs()
    )]
    Strange {
        /// Who has it, if anybody.
        holder: Option<String>,
    },
}

impl Error {
    fn is_conflict(&self) -> bool {
        let Self::Request { source, .. } = self else { return false };
        matches!(&**source, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists())
    }

    fn is_not_found(&self) -> bool {
        let Self::Request { source, .. } = self else { return false };
        matches!(&**source, kube::Error::Api(status) if status.is_not_found())
    }
}

/// The Lease, and what was seen of it last: of one that was deleted that is more.
type Known = (Option<Lease>, Seen);

/// Waits for the Lease.
pub struct Candidate {
    api: Api<Lease>,
    me: Identity,
    hub: String,
    key: String,
    timing: Timing,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("me", &self.me).finish_non_exhaustive()
    }
}

/// The Lease is held. [`Held::keep`] must run as long as this process leads.
#[derive(Debug)]
pub struct Held {
    candidate: Candidate,
    lease: Lease,
    renewed: Instant,
}

impl Candidate {
    /// For the Lease of this namespace; `hub` is where gateways find this process once it leads, `key` the fingerprint of the cluster key.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        me: Identity,
        hub: String,
        key: String,
        timing: Timing,
    ) -> Self {
        Self { api: Api::namespaced(client, namespace), me, hub, key, timing }
    }

    /// Waits until this process leads. Never fails: an API server that is away is asked again.
    ///
    /// # Cancel safety
    /// A Lease that was just taken when the future is dropped runs out by itself.
    pub async fn acquire(self) -> Held {
        let mut watch = Watch::new(self.api.clone(), self.timing.duration);
        let mut known: Option<Known> = None;
        let said = Seldom::new();
        let complain = |error: &dyn std::error::Error| {
            if said.is_news(()) {
                tracing::warn!(error = crate::telemetry::chain(error), "the lease cannot be had");
            }
        };
        loop {
            let now = Instant::now();
            let step =
                known.as_ref().map(|(_, seen)| decide(&self.me, self.timing, Role::Standby, seen, now));
            let wake = match step {
                Some(Step::Take) => {
                    let lease = known.as_ref().and_then(|(lease, _)| lease.clone());
                    let began = Instant::now();
                    match self.write(lease).await {
                        Ok(lease) => {
                            tracing::info!(me = self.me.holder(), hub = self.hub, "leading");
                            return Held { candidate: self, lease, renewed: began };
                        }
                        // It is not what it was, and the watch may be the last to say so: one whose connection is dead says nothing.
                        Err(error) if error.is_conflict() || error.is_not_found() => {
                            match self.read().await {
                                Ok(lease) => self.learn(&mut known, Some(lease), &complain),
                                Err(error) if error.is_not_found() => {
                                    self.learn(&mut known, None, &complain);
                                }
                                Err(error) => complain(&error),
                            }
                        }
                        Err(error) => complain(&error),
                    }
                    Instant::now() + PAUSE
                }
                Some(Step::Wait(until)) => until,
                _ => Instant::now() + UNHEARD,
            };
            tokio::select! {
                change = watch.next() => match change {
                    Ok(lease) => self.learn(&mut known, lease, &complain),
                    Err(error) => complain(&error),
                },
                () = sleep_until(wake) => {}
            }
        }
    }

    /// This is the Lease now. One that is as it was known is as old as it was.
    fn learn(
        &self,
        known: &mut Option<Known>,
        lease: Option<Lease>,
        complain: &impl Fn(&dyn std::error::Error),
    ) {
        if known.as_ref().is_some_and(|(before, _)| *before == lease) {
            return;
        }
        let seen = match (&lease, &*known) {
            (None, Some((_, before))) => before.clone().vanished(),
            (_, _) => self.seen(lease.as_ref()),
        };
        let new = known.as_ref().is_none_or(|(_, before)| before.holder != seen.holder);
        match &seen.holder {
            holder if seen.is_strange => complain(&Error::Strange { holder: holder.clone() }),
            Some(holder) if new => tracing::info!(holder, "standing by"),
            Some(_) | None => {}
        }
        *known = Some((lease, seen));
    }

    fn annotations(&self) -> [(String, String); 2] {
        [(HUB_ANNOTATION.to_owned(), self.hub.clone()), (KEY_ANNOTATION.to_owned(), self.key.clone())]
    }

    fn seen(&self, lease: Option<&Lease>) -> Seen {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let holder = spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty());
        let seconds =
            spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let key = lease.and_then(|lease| lease.metadata.annotations.as_ref()?.get(KEY_ANNOTATION));
        Seen {
            holder,
            since: Instant::now(),
            duration: seconds.map_or(self.timing.duration, Duration::from_secs),
            // An earlier version writes none.
            is_strange: key.is_some_and(|key| *key != self.key),
        }
    }

    /// Writes this process into the Lease: a new one, or in the place of this form of it.
    async fn write(&self, before: Option<Lease>) -> Result<Lease, Error> {
        let now = MicroTime(Timestamp::now());
        let me = self.me.holder();
        let spec = before.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let is_mine = spec.holder_identity.as_deref() == Some(&me);
        let spec = LeaseSpec {
            acquire_time: if is_mine { spec.acquire_time } else { Some(now.clone()) },
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!is_mine)),
            holder_identity: Some(me),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            renew_time: Some(now),
            ..spec
        };
        let Some(mut lease) = before else {
            let metadata = ObjectMeta {
                name: Some(NAME.to_owned()),
                annotations: Some(self.annotations().into()),
                labels: Some([(MADE_BY.0.to_owned(), MADE_BY.1.to_owned())].into()),
                ..ObjectMeta::default()
            };
            let lease = Lease { metadata, spec: Some(spec) };
            return self.asked("create", self.api.create(&PostParams::default(), &lease)).await;
        };
        lease.metadata.annotations.get_or_insert_default().extend(self.annotations());
        let labels = lease.metadata.labels.get_or_insert_default();
        labels.insert(MADE_BY.0.to_owned(), MADE_BY.1.to_owned());
        lease.spec = Some(spec);
        self.asked("write", self.api.replace(NAME, &PostParams::default(), &lease)).await
    }

    async fn read(&self) -> Result<Lease, Error> {
        self.asked("read", self.api.get(NAME)).await
    }

    async fn asked<T>(
        &self,
        doing: &'static str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(self.timing.request(), request).await {
            Ok(answer) => answer.map_err(|source| Error::Request { doing, source: Box::new(source) }),
            Err(_) => Err(Error::Silent),
        }
    }
}

impl Held {
    /// Renews the Lease, and returns when it is lost: this process must do nothing more then. However slow the API server is, and whatever is
    /// asked of it at that moment, that is no later than the deadline after the last renewal (INV-19).
    pub async fn keep(&mut self) -> Lost {
        loop {
            let deadline = self.renewed + self.candidate.timing.deadline();
            match timeout_at(deadline, self.go_on()).await {
                Ok(None) => {}
                Ok(Some(lost)) => return lost,
                // What was asked may be taken all the same: then others wait for longer.
                Err(_) => return Lost::NotRenewed(self.renewed.elapsed()),
            }
        }
    }

    /// The next step; whether it is lost.
    ///
    /// # Cancel safety
    /// When the future is dropped, a renewal may have been taken that this process does not know of.
    async fn go_on(&mut self) -> Option<Lost> {
        let role = Role::Leader { renewed: self.renewed };
        let seen = self.candidate.seen(Some(&self.lease));
        match decide(&self.candidate.me, self.candidate.timing, role, &seen, Instant::now()) {
            Step::GiveUp(lost) => return Some(lost),
            Step::Wait(until) => sleep_until(until).await,
            Step::Renew | Step::Take => {
                let began = Instant::now();
                let renewed = match self.candidate.write(Some(self.lease.clone())).await {
                    // Somebody has deleted it, and whoever makes it first leads.
                    Err(error) if error.is_not_found() => Box::pin(self.candidate.write(None)).await,
                    outcome => outcome,
                };
                match renewed {
                    Ok(lease) => (self.lease, self.renewed) = (lease, began),
                    Err(error) => {
                        tracing::warn!(error = crate::telemetry::chain(&error), "the lease was not renewed");
                        // Somebody has edited it, or taken it; or it was renewed, and the answer did not come.
                        if error.is_conflict()
                            && let Ok(lease) = self.candidate.read().await
                        {
                            self.lease = lease;
                        }
                        sleep(PAUSE).await;
                    }
                }
            }
        }
        None
    }

    /// Gives the Lease back, so that another takes it at once. One that is deleted needs no giving back.
    ///
    /// # Errors
    /// When the API server does not take it: then it runs out by itself.
    pub async fn release(mut self) -> Result<(), Error> {
        match self.give_back().await {
            // A renewal that was cut off may have been taken all the same.
            Err(error) if error.is_conflict() => {
                self.lease = self.candidate.read().await?;
                self.give_back().await
            }
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }

    async fn give_back(&self) -> Result<(), Error> {
        let mut lease = self.lease.clone();
        let me = self.candidate.me.holder();
        let Some(spec) = &mut lease.spec else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&me) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        if let Some(annotations) = &mut lease.metadata.annotations {
            annotations.remove(HUB_ANNOTATION);
        }
        let (candidate, parameters) = (&self.candidate, PostParams::default());
        candidate.asked("release", candidate.api.replace(NAME, &parameters, &lease)).await.map(drop)
    }
}
