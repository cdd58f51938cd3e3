//! The metrics registry: names and help texts are constants, label values are closed sets or names of Functions and Revisions.
//!
//! A label with a closed set is an enum made by `label_set!`; its metric is an array of plain counters, one for each value, so that
//! counting is one atomic addition and no value can be made up at run time (no instance names, no error texts). Metrics for each
//! Revision are made when somebody first asks for them ([`PerRevision::of`]), kept by whoever counts, and taken away with the Revision.
//!
//! Naming: `hearth_<part>_<noun>_<unit>[_total]`, in seconds and bytes.
//!
//! ```
//! use hearth::label_set;
//! use hearth::telemetry::metrics::Registry;
//!
//! label_set! {
//!     /// How a start ended.
//!     pub enum Outcome("outcome") { Ready = "ready", Failed = "failed" }
//! }
//!
//! let registry = Registry::new();
//! let starts = registry.counters::<Outcome>("hearth_pool_starts_total", "Instances started.");
//! starts.get(Outcome::Failed).inc();
//! assert!(registry.render().contains("hearth_pool_starts_total{outcome=\"failed\"} 1"));
//! ```

mod revision;

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

/// A distribution.
pub use prometheus::Histogram;
/// Something that only grows.
pub use prometheus::IntCounter as Counter;
/// Something that goes up and down.
pub use prometheus::IntGauge as Gauge;
use prometheus::core::Collector;
use prometheus::{Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, TextEncoder};

pub use revision::{OfRevision, PerRevision, RevisionCounters, RevisionGauges, RevisionHistograms};

use revision::{Form, Table};

/// Buckets for times from a tenth of a millisecond (a warm call) to two minutes (a call at its limit), in seconds.
pub const LATENCY_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0, 120.0,
];

/// Buckets for sizes of bodies, in bytes.
pub const SIZE_BYTES: &[f64] =
    &[0.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 16_777_216.0];

/// The values that a label can have. Made by `label_set!`.
pub trait Label: Copy + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Every value, in the order of [`Label::index`].
    const ALL: &'static [Self];
    /// The value as it is printed.
    fn as_str(self) -> &'static str;
    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Makes an enum whose values are the values of one label: `label_set! { /// Doc.  pub enum Phase("phase") { Queue = "queue" } }`.
#[macro_export]
macro_rules! label_set {
    ($(#[$doc:meta])* $vis:vis enum $name:ident($label:literal) { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $name { $($(#[$vdoc])* #[doc = concat!("`", $text, "`")] $variant),+ }

        impl $crate::telemetry::metrics::Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

/// All metrics of a process. Cloning it gives another handle on the same.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    whole: prometheus::Registry,
    per_revision: Arc<Mutex<Vec<Arc<Table>>>>,
}

/// One metric for each value of a label.
#[derive(Debug, Clone)]
pub struct Family<L, M> {
    members: Vec<M>,
    label: PhantomData<L>,
}

/// Counters, one for each value of a label.
pub type Counters<L> = Family<L, Counter>;
/// Gauges, one for each value of a label.
pub type Gauges<L> = Family<L, Gauge>;
/// Histograms, one for each value of a label.
pub type Histograms<L> = Family<L, Histogram>;

impl<L: Label, M> Family<L, M> {
    fn new(member: impl Fn(L) -> M) -> Self {
        Self { members: L::ALL.iter().map(|&value| member(value)).collect(), label: PhantomData }
    }

    /// The metric of this value.
    #[must_use]
    pub fn get(&self, value: L) -> &M {
        self.members.get(value.index()).expect("a family has a member for each value of its label")
    }
}

/// The label of a metric that needs none beside the Revision's.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Label for Plain {
    const NAME: &'static str = "";
    const ALL: &'static [Self] = &[Self];
    fn as_str(self) -> &'static str {
        ""
    }
    fn index(self) -> usize {
        0
    }
}

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All metrics in the Prometheus text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.whole.gather(), &mut text).expect("writing to memory does not fail");
        let mut text = String::from_utf8(text).expect("names, labels and numbers are UTF-8");
        let tables = self.per_revision.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for table in tables {
            table.render(&mut text);
        }
        text
    }

    /// A counter.
    ///
    /// # Panics
    /// As all of these: when the name is not valid or used twice. Names are constants, so every test that makes the part finds it.
    #[must_use]
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.enter(Counter::new(name, help))
    }

    /// A gauge.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.enter(Gauge::new(name, help))
    }

    /// A histogram.
    #[must_use]
    pub fn histogram(&self, name: &'static str, help: &'static str, buckets: &[f64]) -> Histogram {
        self.enter(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// Counters, one for each value of `L`, all present from the start.
    #[must_use]
    pub fn counters<L: Label>(&self, name: &'static str, help: &'static str) -> Counters<L> {
        let vec = self.enter(IntCounterVec::new(Opts::new(name, help), &[L::NAME]));
        Family::new(|value: L| vec.with_label_values(&[value.as_str()]))
    }

    /// Gauges, one for each value of `L`, all present from the start.
    #[must_use]
    pub fn gauges<L: Label>(&self, name: &'static str, help: &'static str) -> Gauges<L> {
        let vec = self.enter(IntGaugeVec::new(Opts::new(name, help), &[L::NAME]));
        Family::new(|value: L| vec.with_label_values(&[value.as_str()]))
    }

    /// Histograms, one for each value of `L`, all present from the start.
    #[must_use]
    pub fn histograms<L: Label>(
        &self,
        name: &'static str,
        help: &'static str,
        buckets: &[f64],
    ) -> Histograms<L> {
        let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let vec = self.enter(HistogramVec::new(opts, &[L::NAME]));
        Family::new(|value: L| vec.with_label_values(&[value.as_str()]))
    }

    /// Counters for each Revision.
    #[must_use]
    pub fn revision_counters<L: Label>(&self, name: &'static str, help: &'static str) -> RevisionCounters<L> {
        self.enter_table(Table::new::<L>(name, help, Form::Counter))
    }

    /// Gauges for each Revision.
    #[must_use]
    pub fn revision_gauges<L: Label>(&self, name: &'static str, help: &'static str) -> RevisionGauges<L> {
        self.enter_table(Table::new::<L>(name, help, Form::Gauge))
    }

    /// Histograms for each Revision; `buckets` grow.
    #[must_use]
    pub fn revision_histograms<L: Label>(
        &self,
        name: &'static str,
        help: &'static str,
        buckets: &'static [f64],
    ) -> RevisionHistograms<L> {
        self.enter_table(Table::new::<L>(name, help, Form::Histogram(buckets)))
    }

    fn enter_table<L: Label, M>(&self, table: Table) -> PerRevision<L, M> {
        let table = Arc::new(table);
        let mut tables = self.per_revision.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(tables.iter().all(|known| known.name() != table.name()), "a metric's name is used once");
        tables.push(Arc::clone(&table));
        PerRevision::new(table)
    }

    fn enter<C: Collector + Clone + 'static>(&self, made: Result<C, prometheus::Error>) -> C {
        let collector = made.expect("a metric's name, help and labels are constants");
        self.whole.register(Box::new(collector.clone())).expect("a metric's name is used once");
        collector
    }
}

#[cfg(test)]
mod tests {
    use hearth_function::{FunctionId, RevisionId};

    use super::*;

    label_set! {
        /// A phase.
        enum Phase("phase") { Queue = "queue", Start = "start" }
    }

    #[test]
    fn every_value_is_there_from_the_start() {
        let registry = Registry::new();
        let counters = registry.counters::<Phase>("hearth_test_total", "Test.");
        counters.get(Phase::Start).inc_by(2);
        let text = registry.render();
        assert!(text.contains("hearth_test_total{phase=\"queue\"} 0"), "{text}");
        assert!(text.contains("hearth_test_total{phase=\"start\"} 2"), "{text}");
    }

    #[test]
    fn a_revision_takes_its_metrics_with_it() {
        let registry = Registry::new();
        let calls = registry.revision_counters::<Phase>("hearth_calls_total", "Calls.");
        let load = registry.revision_gauges::<Plain>("hearth_load", "Load.");
        let time = registry.revision_histograms::<Plain>("hearth_time_seconds", "Time.", &[0.1, 1.0]);
        let function = FunctionId::parse("default/hello").unwrap();
        let revision = RevisionId::parse("default/hello-00001").unwrap();
        calls.of(&function, &revision).inc(Phase::Start);
        calls.of(&function, &revision).inc_by(Phase::Start, 2);
        load.of(&function, &revision).set(Plain, -3);
        for observed in [0.0625, 0.5, 1.0, 2.0] {
            time.of(&function, &revision).observe(Plain, observed);
        }
        let labels = "namespace=\"default\",function=\"hello\",revision=\"hello-00001\"";
        let expected = format!(
            "# HELP hearth_calls_total Calls.\n# TYPE hearth_calls_total counter\n\
             hearth_calls_total{{{labels},phase=\"queue\"}} 0\n\
             hearth_calls_total{{{labels},phase=\"start\"}} 3\n\
             # HELP hearth_load Load.\n# TYPE hearth_load gauge\nhearth_load{{{labels}}} -3\n\
             # HELP hearth_time_seconds Time.\n# TYPE hearth_time_seconds histogram\n\
             hearth_time_seconds_bucket{{{labels},le=\"0.1\"}} 1\n\
             hearth_time_seconds_bucket{{{labels},le=\"1\"}} 3\n\
             hearth_time_seconds_bucket{{{labels},le=\"+Inf\"}} 4\n\
             hearth_time_seconds_sum{{{labels}}} 3.5625\n\
             hearth_time_seconds_count{{{labels}}} 4\n"
        );
        assert_eq!(registry.render(), expected);
        calls.remove(&revision);
        load.remove(&revision);
        time.remove(&revision);
        assert_eq!(registry.render(), "");
    }
}
