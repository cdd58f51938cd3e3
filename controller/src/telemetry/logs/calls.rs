//! Records of calls on their way to the log: already the lines that will stand there, many in one buffer.
//!
//! A gateway ends tens of thousands of calls in a second. As a value of its own, each would cost a handful of allocations and a place in
//! a queue; as bytes behind those of the call before, it costs the writing.

use hearth_function::FunctionId;
use serde::Serialize;

use super::{CallRecord, Entry};

/// As an [`Entry`] of a call is written.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
enum Line<'a> {
    Call(&'a CallRecord<&'a str>),
}

/// Records of calls, in the order in which they ended.
#[derive(Debug, Default)]
pub struct Calls {
    lines: Vec<u8>,
    /// Up to where the lines are which Function's.
    runs: Vec<(FunctionId, usize)>,
    count: u64,
}

impl Calls {
    /// Adds the record of a call of `function`.
    pub fn push(&mut self, function: &FunctionId, call: &CallRecord<&str>) {
        // A record is numbers and strings: it has a JSON form.
        serde_json::to_writer(&mut self.lines, &Line::Call(call)).expect("a record has a JSON form");
        self.lines.push(b'\n');
        self.count += 1;
        self.end_of(function);
    }

    /// Adds records of calls of `function` that stand as lines already. What is no record is left out when it is read.
    pub fn append(&mut self, function: &FunctionId, lines: &[u8]) {
        let before = self.lines.len();
        self.lines.extend_from_slice(lines);
        if self.lines.len() > before && self.lines.last() != Some(&b'\n') {
            self.lines.push(b'\n');
        }
        self.count += self
            .lines
            .get(before..)
            .map_or(0, |new| new.iter().filter(|byte| **byte == b'\n').count() as u64);
        self.end_of(function);
    }

    fn end_of(&mut self, function: &FunctionId) {
        let end = self.lines.len();
        match self.runs.last_mut() {
            Some((last, until)) if last == function => *until = end,
            _ => self.runs.push((function.clone(), end)),
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Bytes that they take.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.lines.len()
    }

    /// The Functions, each with its lines; one that had calls between others' comes again.
    pub fn runs(&self) -> impl Iterator<Item = (&FunctionId, &[u8])> {
        let mut from = 0;
        self.runs.iter().map(move |(function, until)| {
            let lines = self.lines.get(from..*until).unwrap_or_default();
            from = *until;
            (function, lines)
        })
    }
}

/// The entries of lines that [`Calls::push`] wrote.
pub(super) fn entries(lines: &[u8]) -> impl Iterator<Item = Entry> {
    lines.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hearth_dispatch::StartKind;
    use hearth_function::{InstanceId, RevisionId};
    use jiff::Timestamp;

    use super::*;

    fn record<Text>(text: impl Fn(&'static str) -> Text) -> CallRecord<Text> {
        CallRecord {
            time: Timestamp::from_microsecond(1_659_687_279_885_001).unwrap(),
            request: text("r-1"),
            revision: RevisionId::parse("default/hello-00001").unwrap(),
            instance: Some(InstanceId::parse("hello-a").unwrap()),
            method: text("GET"),
            path: text("/hel\"lo"),
            status: 504,
            code: Some(text("execute_timeout")),
            start: Some(StartKind::Cold),
            attempts: 2,
            queue: Duration::from_micros(31),
            init: Duration::from_millis(60),
            exec: Duration::from_millis(1204),
            received: 0,
            sent: 5,
            client_gone: true,
        }
    }

    #[test]
    fn a_line_is_the_entry_that_is_read() {
        let mut calls = Calls::default();
        let (one, other) = (FunctionId::parse("a/one").unwrap(), FunctionId::parse("a/other").unwrap());
        for function in [&one, &one, &other, &one] {
            calls.push(function, &record(|text| text));
        }
        let entry = Entry::Call(record(str::to_owned));
        let read: Vec<(&FunctionId, Vec<Entry>)> =
            calls.runs().map(|(function, lines)| (function, entries(lines).collect())).collect();
        let expected = [
            (&one, vec![entry.clone(), entry.clone()]),
            (&other, vec![entry.clone()]),
            (&one, vec![entry.clone()]),
        ];
        assert_eq!(read, expected);
        assert_eq!(calls.count(), 4);
        let mut line = serde_json::to_vec(&entry).unwrap();
        line.push(b'\n');
        assert_eq!(calls.runs().nth(1).unwrap().1, line);
    }
}
