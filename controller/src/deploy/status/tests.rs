//! What the conditions say, and when that changes.

use super::*;

#[test]
fn a_condition_keeps_the_time_of_its_last_change() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut known = Known { generation: 1, ..Known::default() };
    let first = status(None, &known, at(1));
    known.ready = Stage::Underway { reason: "Starting", message: "starting hello-00001".to_owned() };
    let second = status(Some(&first), &known, at(2));
    let ready = second.condition(ConditionType::Ready).unwrap();
    assert_eq!((ready.reason.as_str(), ready.last_transition_time.0), ("Starting", at(1)));
    known.ready = Stage::Done { reason: "Ready", message: String::new() };
    let third = status(Some(&second), &known, at(3));
    assert_eq!(third.condition(ConditionType::Ready).unwrap().last_transition_time.0, at(3));
    assert!(third.is_ready());
}

#[test]
fn a_revision_that_failed_says_why_and_who_serves() {
    let failure = StartFailure {
        code: StartCode::HandlerMissing,
        message: "index.js exports no handler".to_owned(),
        last_lines: vec!["boom".to_owned()],
    };
    let current = Current {
        name: "hello-00002".to_owned(),
        state: RevisionState::Failed,
        prepared: true,
        ready: 0,
        failure: Some(failure),
        message: None,
        reason: None,
        again: None,
    };
    let facts = Facts { serving: Some("hello-00001".to_owned()), current: Some(current), ..Facts::default() };
    let (ready, built) = stages(&facts);
    assert_eq!(
        ready,
        Stage::Failed {
            reason: "HandlerMissing".to_owned(),
            message: "hello-00002 did not come up: index.js exports no handler\n  boom; hello-00001 goes on serving"
                .to_owned(),
        }
    );
    assert!(matches!(built, Stage::Done { .. }));
}

#[test]
fn a_function_that_serves_says_what_it_does_not_get() {
    let current = Current {
        name: "hello-00001".to_owned(),
        state: RevisionState::Ready,
        prepared: true,
        ready: 1,
        failure: None,
        message: None,
        reason: None,
        again: None,
    };
    let written = |outdated: Option<&str>, lack: Option<&str>| {
        let facts = Facts {
            outdated: outdated.map(str::to_owned),
            lack: lack.map(str::to_owned),
            current: Some(current.clone()),
            ..Facts::default()
        };
        let (ready, built) = stages(&facts);
        status(None, &Known { ready, built, ..Known::default() }, Timestamp::UNIX_EPOCH)
    };
    let message = |status: &FunctionStatus| status.condition(ConditionType::Ready).unwrap().message.clone();
    let whole = written(None, None);
    assert_eq!((message(&whole).as_str(), reservation(&whole)), ("hello-00001 serves", None));
    let lacking = written(None, Some("no wall"));
    assert!(lacking.is_ready());
    assert_eq!(message(&lacking), "hello-00001 serves; but no wall");
    assert_eq!(reservation(&lacking), Some("no wall"));
    assert_eq!(message(&written(Some("old"), Some("no wall"))), "hello-00001 serves; but old; but no wall");
    assert_eq!(reservation(&FunctionStatus::default()), None);
}

#[test]
fn what_an_earlier_controller_said_of_a_failure_stays_said_and_when_it_is_tried_again() {
    let current = Current {
        name: "hello-00001".to_owned(),
        state: RevisionState::Failed,
        prepared: true,
        ready: 0,
        failure: None,
        message: Some("TypeError: no (index.js:3)\n  boom".to_owned()),
        reason: Some("LoadFailed".to_owned()),
        again: Timestamp::from_second(60).ok(),
    };
    let (ready, _) = stages(&Facts { current: Some(current), ..Facts::default() });
    let expected = "hello-00001 did not come up: TypeError: no (index.js:3); it is tried again at 1970-01-01T00:01:00Z, or by `hearth apply`\n  boom";
    assert_eq!(ready, Stage::Failed { reason: "LoadFailed".to_owned(), message: expected.to_owned() });
    assert!(is_of(expected, "hello-00001") && !is_of(expected, "hello-00002"));
}

#[test]
fn a_function_of_which_nothing_serves_says_why_and_whether_to_wait() {
    let installing = Stage::Underway { reason: "Installing", message: "installing: npm runs".to_owned() };
    let known = Known { built: installing, ..Known::default() };
    assert_eq!(unready(&known), ("installing".to_owned(), true));
    let failed = Stage::Failed { reason: "BuildFailed".to_owned(), message: "npm failed".to_owned() };
    assert_eq!(unready(&Known { ready: failed, ..Known::default() }), ("build_failed".to_owned(), false));
}

#[test]
fn a_route_that_is_taken_says_by_whom_and_where_the_function_is_reached() {
    let id = |text| hearth_function::FunctionId::parse(text).unwrap();
    let claim = hearth_dispatch::routes::Claim {
        host: String::new(),
        path: "/hello".to_owned(),
        kind: hearth_dispatch::routes::PathKind::Prefix,
        methods: Vec::new(),
    };
    let holder = Holder::Function(id("a/other"));
    let conflict = Conflict { function: id("b/hello"), claim, holder };
    let url = "http://h/function/b/hello".to_owned();
    let known = Known { url, conflicts: vec![conflict], ..Known::default() };
    let status = status(None, &known, Timestamp::UNIX_EPOCH);
    assert_eq!(
        status.condition(ConditionType::RoutesReady).unwrap().message,
        "/hello belongs to a/other, which is older: change one of the two routes; reachable at http://h/function/b/hello"
    );
}

#[test]
fn a_host_of_another_namespace_is_said_once_and_names_no_function() {
    let lost = |host: &str, path: &str, claimed: &str| Conflict {
        function: hearth_function::FunctionId::parse("b/hello").unwrap(),
        claim: hearth_dispatch::routes::Claim {
            host: host.to_owned(),
            path: path.to_owned(),
            kind: hearth_dispatch::routes::PathKind::Prefix,
            methods: vec!["GET".to_owned()],
        },
        holder: Holder::Namespace { namespace: "a".to_owned(), host: claimed.to_owned() },
    };
    let conflicts =
        vec![lost("x.org", "/", "x.org"), lost("x.org", "/more", "x.org"), lost("w.x.org", "/", "*.x.org")];
    let known = Known { url: "http://h/function/b/hello".to_owned(), conflicts, ..Known::default() };
    let status = status(None, &known, Timestamp::UNIX_EPOCH);
    let condition = status.condition(ConditionType::RoutesReady).unwrap();
    assert_eq!((condition.status, condition.reason.as_str()), (ConditionStatus::False, "RouteTaken"));
    assert_eq!(
        condition.message,
        "host x.org belongs to namespace a, which claimed it first: use another host; \
         host w.x.org belongs to namespace a, which claimed *.x.org first: use another host; \
         reachable at http://h/function/b/hello"
    );
}

#[test]
fn routes_are_ready_once_something_has_come_up_behind_them() {
    let mut known = Known { serving: Some("hello-00001".to_owned()), ..Known::default() };
    let routes = |known: &Known| {
        let status = status(None, known, Timestamp::UNIX_EPOCH);
        let condition = status.condition(ConditionType::RoutesReady).unwrap();
        (condition.status, condition.reason.clone())
    };
    assert_eq!(routes(&known), (ConditionStatus::Unknown, "NotServing".to_owned()));
    known.came_up.clone_from(&known.serving);
    assert_eq!(routes(&known), (ConditionStatus::True, "Routed".to_owned()));
}

#[test]
fn a_step_that_is_refused_is_said_and_the_code_is_there_all_the_same() {
    let current = Current {
        name: "hello-00002".to_owned(),
        state: RevisionState::Pending,
        prepared: true,
        ready: 0,
        failure: None,
        message: None,
        reason: None,
        again: None,
    };
    let facts = Facts {
        refused: Some("pods are forbidden".to_owned()),
        serving: Some("hello-00001".to_owned()),
        current: Some(current),
        ..Facts::default()
    };
    let (ready, built) = stages(&facts);
    let message = "pods are forbidden; hello-00001 goes on serving".to_owned();
    assert_eq!(ready, Stage::Failed { reason: "Refused".to_owned(), message });
    assert!(matches!(built, Stage::Done { .. }));
}

#[test]
fn a_revision_that_no_node_takes_is_not_ready_while_it_is_tried_and_after() {
    let failure = StartFailure {
        code: StartCode::Unschedulable,
        message: "no node takes its Pod: 0/1 nodes are available".to_owned(),
        last_lines: Vec::new(),
    };
    for state in [RevisionState::Pending, RevisionState::Ready] {
        let current = Current {
            name: "hello-00001".to_owned(),
            state,
            prepared: true,
            ready: 0,
            failure: Some(failure.clone()),
            message: None,
            reason: None,
            again: None,
        };
        let (ready, _) = stages(&Facts { current: Some(current), ..Facts::default() });
        let Stage::Failed { reason, message } = ready else { panic!("{ready:?}") };
        assert_eq!(reason, "Unschedulable");
        assert!(message.ends_with("0/1 nodes are available"), "{message}");
    }
}

#[test]
fn a_reason_is_a_word() {
    assert_eq!(reason_word("handler_missing"), "HandlerMissing");
    assert_eq!(reason_word("start_timeout"), "StartTimeout");
}
