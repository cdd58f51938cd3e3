//! Metrics that every Revision has one of: a row of numbers for each, and the text made when it is asked for.
//!
//! Not a vector of the prometheus crate: that keeps name, help and labels once more for each number, a kilobyte each, and what the
//! gateway counts of a Revision was twenty. Here a Revision costs a metric its key and its numbers.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_function::{FunctionId, RevisionId};

use super::{Counter, Gauge, Histogram, Label};

/// What the numbers of a row are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Counter,
    Gauge,
    /// For each value of the label: one for each bound, one for what is beyond the last, and the sum (an `f64`'s bits).
    Histogram(&'static [f64]),
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }

    fn bounds(self) -> &'static [f64] {
        match self {
            Self::Counter | Self::Gauge => &[],
            Self::Histogram(bounds) => bounds,
        }
    }

    /// Numbers for each value of the label.
    fn width(self) -> usize {
        match self {
            Self::Counter | Self::Gauge => 1,
            Self::Histogram(bounds) => bounds.len() + 2,
        }
    }
}

type Row = Arc<[AtomicU64]>;

/// One metric with the rows of all Revisions.
#[derive(Debug)]
pub(super) struct Table {
    name: &'static str,
    help: &'static str,
    form: Form,
    label: &'static str,
    values: Vec<&'static str>,
    rows: Mutex<BTreeMap<RevisionId, (FunctionId, Row)>>,
}

impl Table {
    pub(super) fn new<L: Label>(name: &'static str, help: &'static str, form: Form) -> Self {
        let values = L::ALL.iter().map(|value| value.as_str()).collect();
        Self { name, help, form, label: L::NAME, values, rows: Mutex::default() }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<RevisionId, (FunctionId, Row)>> {
        // Nothing under this lock panics half-way through a change.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the metric in the Prometheus text format; nothing without Revisions.
    pub(super) fn render(&self, text: &mut String) {
        let rows: Vec<(RevisionId, (FunctionId, Row))> =
            self.rows().iter().map(|(revision, row)| (revision.clone(), row.clone())).collect();
        if rows.is_empty() {
            return;
        }
        let Self { name, help, form, .. } = self;
        line(text, format_args!("# HELP {name} {help}"));
        line(text, format_args!("# TYPE {name} {}", form.name()));
        let width = form.width();
        for (revision, (function, row)) in &rows {
            for (value, numbers) in self.values.iter().zip(row.chunks(width)) {
                // Names of Functions and values of labels have no character that would have to be escaped.
                let mut labels = format!(
                    "namespace=\"{}\",function=\"{}\",revision=\"{}\"",
                    function.namespace(),
                    function.name(),
                    revision.name()
                );
                if !self.label.is_empty() {
                    labels = format!("{labels},{}=\"{value}\"", self.label);
                }
                self.render_member(text, &labels, numbers);
            }
        }
    }

    fn render_member(&self, text: &mut String, labels: &str, numbers: &[AtomicU64]) {
        let name = self.name;
        let number = |at: usize| numbers.get(at).map_or(0, |number| number.load(Ordering::Relaxed));
        match self.form {
            Form::Counter => line(text, format_args!("{name}{{{labels}}} {}", number(0))),
            Form::Gauge => line(text, format_args!("{name}{{{labels}}} {}", number(0).cast_signed())),
            Form::Histogram(bounds) => {
                let mut count = 0;
                for (at, bound) in bounds.iter().enumerate() {
                    count += number(at);
                    line(text, format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {count}"));
                }
                count += number(bounds.len());
                let sum = f64::from_bits(number(bounds.len() + 1));
                line(text, format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {count}"));
                line(text, format_args!("{name}_sum{{{labels}}} {sum}"));
                line(text, format_args!("{name}_count{{{labels}}} {count}"));
            }
        }
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("writing to memory does not fail");
}

/// Metrics that every Revision has one of (for each value of `L`): labels `namespace`, `function`, `revision`, and `L`'s.
#[derive(Debug, Clone)]
pub struct PerRevision<L, M> {
    table: Arc<Table>,
    kind: PhantomData<fn() -> (L, M)>,
}

/// Counters for each Revision.
pub type RevisionCounters<L> = PerRevision<L, Counter>;
/// Gauges for each Revision.
pub type RevisionGauges<L> = PerRevision<L, Gauge>;
/// Histograms for each Revision.
pub type RevisionHistograms<L> = PerRevision<L, Histogram>;

/// The metrics of one Revision, one for each value of `L`. They count on when the Revision was taken away, and are not shown any more.
#[derive(Debug, Clone)]
pub struct OfRevision<L, M> {
    row: Row,
    bounds: &'static [f64],
    kind: PhantomData<fn() -> (L, M)>,
}

impl<L: Label, M> PerRevision<L, M> {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self { table, kind: PhantomData }
    }

    /// The metrics of one Revision, there from now on. A look-up: keep what it returns where calls are counted.
    #[must_use]
    pub fn of(&self, function: &FunctionId, revision: &RevisionId) -> OfRevision<L, M> {
        let Table { form, .. } = *self.table;
        let mut rows = self.table.rows();
        let (_, row) = rows.entry(revision.clone()).or_insert_with(|| {
            let numbers = L::ALL.len() * form.width();
            (function.clone(), std::iter::repeat_with(AtomicU64::default).take(numbers).collect())
        });
        OfRevision { row: Arc::clone(row), bounds: form.bounds(), kind: PhantomData }
    }

    /// Takes away the metrics of a Revision that is gone.
    pub fn remove(&self, revision: &RevisionId) {
        self.table.rows().remove(revision);
    }
}

impl<L: Label, M> OfRevision<L, M> {
    fn number(&self, at: usize) -> &AtomicU64 {
        self.row.get(at).expect("a row has the numbers of each value of its label")
    }
}

impl<L: Label> OfRevision<L, Counter> {
    /// Counts one more.
    pub fn inc(&self, value: L) {
        self.inc_by(value, 1);
    }

    /// Counts so many more.
    pub fn inc_by(&self, value: L, more: u64) {
        self.number(value.index()).fetch_add(more, Ordering::Relaxed);
    }
}

impl<L: Label> OfRevision<L, Gauge> {
    /// It is this now.
    pub fn set(&self, value: L, now: i64) {
        self.number(value.index()).store(now.cast_unsigned(), Ordering::Relaxed);
    }
}

impl<L: Label> OfRevision<L, Histogram> {
    /// Takes in one observation.
    pub fn observe(&self, value: L, observed: f64) {
        let first = value.index() * (self.bounds.len() + 2);
        let bucket = self.bounds.partition_point(|bound| *bound < observed);
        self.number(first + bucket).fetch_add(1, Ordering::Relaxed);
        let add = |sum: u64| Some((f64::from_bits(sum) + observed).to_bits());
        let sum = self.number(first + self.bounds.len() + 1);
        // It never gives up: `add` has an answer for everything.
        let _before = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}
