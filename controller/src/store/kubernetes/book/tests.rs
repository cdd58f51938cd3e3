use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_function::Function;
use proptest::prelude::*;
use serde_json::json;

use super::super::super::object::Object;
use super::*;

fn function(name: &str, uid: &str, version: u64) -> Stored {
    let function: Function = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default", "uid": uid, "resourceVersion": version.to_string() },
        "spec": { "runtime": "exec", "source": { "inline": { "a": "" } }, "command": ["a"] },
    }))
    .unwrap();
    Function::wrap(Arc::new(function))
}

const ALL: Scope = Scope { kind: Kind::Function, namespace: None };

/// A book with its state, as memory has them.
struct Rig {
    book: Book,
    state: State,
    history: Vec<(Happened, String, String)>,
}

impl Rig {
    fn new() -> Self {
        Self { book: Book::default(), state: State::new(64), history: Vec::new() }
    }

    fn take(&mut self, changes: Vec<Change>) -> Vec<Happened> {
        let happened = changes.iter().map(|change| change.happened).collect();
        for change in &changes {
            let uid = change.object.metadata().uid.clone().unwrap();
            self.history.push((change.happened, change.object.key().name, uid));
        }
        self.state.apply(changes);
        happened
    }

    fn arrive(&mut self, object: Stored) -> Vec<Happened> {
        let changes = self.book.arrive(&self.state, object);
        self.take(changes)
    }

    fn leave(&mut self, object: &Stored, from: From) -> Vec<Happened> {
        let changes = self.book.leave(&self.state, &object.key(), Some(object), from);
        self.take(changes)
    }

    fn end(&mut self) -> Vec<Happened> {
        let changes = self.book.end(&self.state, &ALL);
        self.take(changes)
    }
}

#[test]
fn what_is_older_than_what_is_known_changes_nothing() {
    let mut rig = Rig::new();
    assert_eq!(rig.arrive(function("a", "u", 9)), [Happened::Added]);
    assert_eq!(rig.arrive(function("a", "u", 9)), []);
    assert_eq!(rig.arrive(function("a", "u", 8)), []);
    assert_eq!(rig.arrive(function("a", "u", 10)), [Happened::Modified]);
}

/// The same, claimed by a Hearth.
fn claimed(name: &str, version: u64, by: &str) -> Stored {
    let mut object = function(name, "u", version);
    let claim = (hearth_function::INSTALLATION_ANNOTATION.to_owned(), by.to_owned());
    object.metadata_mut().annotations = Some([claim].into());
    object
}

#[test]
fn what_another_hearth_has_claimed_is_not_there_until_it_has_not() {
    let mut rig = Rig::new();
    rig.book = Book::new(Some("mine".to_owned()));
    let elsewhere = |rig: &Rig| rig.book.elsewhere().map(|taken| taken.claimant).collect::<Vec<_>>();
    assert_eq!(rig.arrive(function("a", "u", 1)), [Happened::Added]);
    assert_eq!(rig.arrive(claimed("a", 2, "mine")), [Happened::Modified]);
    assert_eq!(rig.arrive(claimed("a", 1, "theirs")), [], "late");
    assert_eq!(rig.arrive(claimed("a", 3, "theirs")), [Happened::Deleted]);
    assert_eq!(rig.arrive(claimed("a", 2, "mine")), [], "late");
    assert_eq!((elsewhere(&rig), rig.book.claims()), (vec!["theirs".to_owned()], 1));
    assert_eq!(rig.arrive(claimed("a", 4, "theirs")), []);
    assert_eq!(rig.book.claims(), 1, "its status was written");
    rig.book.begin(&ALL);
    rig.arrive(claimed("a", 4, "theirs"));
    rig.end();
    assert_eq!(elsewhere(&rig).len(), 1);
    assert_eq!(rig.arrive(function("a", "u", 5)), [Happened::Added]);
    rig.arrive(claimed("b", 6, "theirs"));
    rig.book.begin(&ALL);
    rig.arrive(function("a", "u", 5));
    assert_eq!(
        (rig.end(), elsewhere(&rig)),
        (vec![], vec![]),
        "a list that leaves it out says that it is gone"
    );
}

#[test]
fn one_that_was_made_again_is_another() {
    let mut rig = Rig::new();
    rig.arrive(function("a", "u", 1));
    assert_eq!(rig.arrive(function("a", "v", 2)), [Happened::Deleted, Happened::Added]);
    // The end of the first is told late.
    assert_eq!(rig.leave(&function("a", "u", 2), From::Watch), []);
}

#[test]
fn one_that_we_deleted_does_not_come_back_by_a_late_watch() {
    let mut rig = Rig::new();
    rig.arrive(function("a", "u", 1));
    assert_eq!(rig.leave(&function("a", "u", 1), From::Answer), [Happened::Deleted]);
    assert_eq!(rig.arrive(function("a", "u", 2)), []);
    assert_eq!(rig.leave(&function("a", "u", 3), From::Watch), []);
    assert_eq!(rig.arrive(function("a", "v", 4)), [Happened::Added]);
    assert!(rig.book.deleted.is_empty());
}

#[test]
fn a_deletion_that_the_watch_told_of_before_its_answer_is_not_remembered() {
    let mut rig = Rig::new();
    rig.arrive(function("a", "u", 1));
    assert_eq!(rig.leave(&function("a", "u", 2), From::Watch), [Happened::Deleted]);
    assert_eq!(rig.leave(&function("a", "u", 1), From::Answer), []);
    assert!(rig.book.deleted.is_empty());
}

#[test]
fn one_that_the_watch_told_to_be_gone_does_not_come_back_by_a_late_answer() {
    let mut rig = Rig::new();
    rig.arrive(function("a", "u", 1));
    assert_eq!(rig.leave(&function("a", "u", 3), From::Watch), [Happened::Deleted]);
    assert_eq!(rig.arrive(function("a", "u", 2)), []);
    assert_eq!(rig.arrive(function("a", "v", 4)), [Happened::Added]);
    // It is remembered for as long as an answer can take, and no longer.
    for other in 0..GONE {
        rig.leave(&function("b", &other.to_string(), 5), From::Watch);
    }
    let Gone { uids, oldest_first } = &rig.book.gone;
    assert_eq!((uids.len(), oldest_first.len(), uids.contains("u")), (GONE, GONE, false));
}

#[test]
fn a_list_takes_away_what_it_leaves_out_but_nothing_that_was_written_meanwhile() {
    let mut rig = Rig::new();
    rig.arrive(function("a", "u", 1));
    rig.arrive(function("b", "v", 2));
    rig.book.begin(&ALL);
    rig.arrive(function("a", "u", 1));
    // An answer to a write of ours, which the list is too old to hold.
    rig.arrive(function("c", "w", 9));
    assert_eq!(rig.end(), [Happened::Deleted]);
    let names: Vec<String> = rig.state.objects().map(|object| object.key().name).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn a_list_that_began_after_a_deletion_forgets_it_and_one_before_does_not() {
    let mut rig = Rig::new();
    rig.arrive(function("a", "u", 1));
    rig.book.begin(&ALL);
    rig.leave(&function("a", "u", 1), From::Answer);
    assert_eq!(rig.arrive(function("a", "u", 1)), []);
    rig.end();
    assert_eq!(rig.book.deleted.len(), 1, "its watch will tell of it");
    rig.book.begin(&ALL);
    rig.end();
    assert!(rig.book.deleted.is_empty());
}

#[test]
fn what_cannot_be_read_keeps_the_spec_that_is_known_and_says_why() {
    let mut rig = Rig::new();
    rig.arrive(function("a", "u", 1));
    let placeholder = |version| {
        let object = function("a", "u", version);
        let metadata = object.metadata().clone();
        Function::wrap(Arc::new(Function::unreadable(metadata, "no such field").unwrap()))
    };
    let changes = rig.book.arrive_unreadable(&rig.state, placeholder(2), "no such field");
    assert_eq!(rig.take(changes), [Happened::Modified]);
    let known = rig.state.get::<Function>("default", "a").unwrap();
    assert_eq!(known.spec.command, ["a"]);
    assert_eq!(super::super::super::unreadable(&known.metadata), Some("no such field"));
    // Mended: nothing of it is left.
    rig.arrive(function("a", "u", 3));
    let known = rig.state.get::<Function>("default", "a").unwrap();
    assert_eq!(super::super::super::unreadable(&known.metadata), None);
}

/// What happens at the API server, and to what tells of it.
#[derive(Debug, Clone)]
enum Step {
    Write(usize),
    Delete(usize),
    /// A deletion that the watch has told of when its answer comes.
    DeleteSlowly(usize),
    /// A write that is answered when somebody else has deleted the object, and the watch has told of both.
    WriteSlowly(usize),
    /// The watch tells of so many events.
    Hear(usize),
    /// The watch is lost, and a list is read.
    Relist,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3_usize).prop_map(Step::Write),
        (0..3_usize).prop_map(Step::Delete),
        (0..3_usize).prop_map(Step::DeleteSlowly),
        (0..3_usize).prop_map(Step::WriteSlowly),
        (1..4_usize).prop_map(Step::Hear),
        Just(Step::Relist),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// INV-10 in a cluster: whatever the order in which answers, watches and lists come, in the end memory has what the API server has, and the
    /// history, replayed, gives it.
    #[test]
    fn memory_ends_as_the_api_server_is_and_the_history_replayed_gives_it(steps in steps()) {
        let mut rig = Rig::new();
        let mut there: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        let mut events: Vec<(bool, Stored)> = Vec::new();
        let (mut heard, mut version) = (0_usize, 0);
        let object = |number: usize, uid: u64, version: u64| function(&format!("f{number}"), &uid.to_string(), version);
        let hear = |rig: &mut Rig, events: &[(bool, Stored)]| for (alive, one) in events.iter().cloned() {
            if alive { rig.arrive(one); } else { rig.leave(&one, From::Watch); }
        };
        for step in steps.into_iter().chain([Step::Hear(usize::MAX)]) {
            match step {
                Step::Write(number) => {
                    version += 1;
                    let uid = there.get(&number).map_or(version, |(uid, _)| *uid);
                    there.insert(number, (uid, version));
                    events.push((true, object(number, uid, version)));
                    rig.arrive(object(number, uid, version));
                }
                Step::Delete(number) => if let Some((uid, was)) = there.remove(&number) {
                    version += 1;
                    events.push((false, object(number, uid, version)));
                    rig.leave(&object(number, uid, was), From::Answer);
                },
                Step::DeleteSlowly(number) => if let Some((uid, was)) = there.remove(&number) {
                    version += 1;
                    events.push((false, object(number, uid, version)));
                    hear(&mut rig, &events[heard..]);
                    heard = events.len();
                    rig.leave(&object(number, uid, was), From::Answer);
                },
                Step::WriteSlowly(number) => {
                    version += 2;
                    let (uid, written) = (there.remove(&number).map_or(version, |(uid, _)| uid), version - 1);
                    events.push((true, object(number, uid, written)));
                    events.push((false, object(number, uid, version)));
                    hear(&mut rig, &events[heard..]);
                    heard = events.len();
                    rig.arrive(object(number, uid, written));
                }
                Step::Hear(count) => {
                    let until = heard.saturating_add(count).min(events.len());
                    hear(&mut rig, &events[heard..until]);
                    heard = until;
                }
                Step::Relist => {
                    rig.book.begin(&ALL);
                    for (number, (uid, version)) in &there {
                        rig.arrive(object(*number, *uid, *version));
                    }
                    rig.end();
                    heard = events.len();
                }
            }
        }
        let expected: BTreeMap<String, String> =
            there.iter().map(|(number, (uid, _))| (format!("f{number}"), uid.to_string())).collect();
        let known: BTreeMap<String, String> = rig.state.objects()
            .map(|object| (object.key().name, object.metadata().uid.clone().unwrap())).collect();
        prop_assert_eq!(&known, &expected);
        let mut replayed: BTreeMap<String, String> = BTreeMap::new();
        for (happened, name, uid) in &rig.history {
            match happened {
                Happened::Added => prop_assert_eq!(replayed.insert(name.clone(), uid.clone()), None),
                Happened::Modified => prop_assert_eq!(replayed.get(name), Some(uid)),
                Happened::Deleted => prop_assert_eq!(replayed.remove(name), Some(uid.clone())),
            }
        }
        prop_assert_eq!(replayed, expected);
        prop_assert!(rig.book.deleted.is_empty());
    }
}
