use super::*;
use crate::kind::Flags;

fn frame(kind: Kind, stream: u32, flags: Flags, amount: u32) -> Outline {
    Outline { kind, stream, flags, amount }
}

fn plain(kind: Kind, stream: u32) -> Outline {
    Outline::plain(kind, stream)
}

/// An invoke connection after `welcome`.
fn open() -> Connection {
    let mut connection = Connection::new(Role::Invoke);
    connection.from_caller(plain(Kind::Hello, 0)).unwrap();
    connection.from_instance(plain(Kind::Welcome, 0)).unwrap();
    connection
}

#[test]
fn a_call_may_follow_hello_at_once_but_no_answer_comes_before_welcome() {
    let mut connection = Connection::new(Role::Invoke);
    let invoke = frame(Kind::Invoke, 1, Flags::END, 10);
    assert_eq!(connection.from_caller(invoke), Err(Violation::Unexpected(Kind::Invoke)));
    connection.from_caller(plain(Kind::Hello, 0)).unwrap();
    connection.from_caller(invoke).unwrap();
    let answer = frame(Kind::Answer, 1, Flags::END, 5);
    assert_eq!(connection.from_instance(answer), Err(Violation::Unexpected(Kind::Answer)));
    connection.from_instance(plain(Kind::Welcome, 0)).unwrap();
    assert_eq!(connection.from_instance(answer), Ok(Step::Over));
    assert_eq!(connection.open_calls(), 0);
    let again = Violation::UnknownCall { kind: Kind::Answer, stream: 1 };
    assert_eq!(connection.from_instance(answer), Err(again));
}

#[test]
fn calls_are_numbered_by_one() {
    let mut connection = open();
    let invoke = |stream| frame(Kind::Invoke, stream, Flags::END, 0);
    assert_eq!(connection.from_caller(invoke(2)), Err(Violation::Number { got: 2, expected: 1 }));
    connection.from_caller(invoke(1)).unwrap();
    assert_eq!(connection.from_caller(invoke(1)), Err(Violation::Number { got: 1, expected: 2 }));
    connection.from_caller(invoke(2)).unwrap();
    assert_eq!(connection.next_stream(), Some(3));
}

#[test]
fn a_body_waits_for_accept_where_it_was_asked_for() {
    let mut connection = open();
    connection.from_caller(frame(Kind::Invoke, 1, Flags::ACCEPT, 100)).unwrap();
    assert_eq!(connection.call(1).map(Call::body_window), Some(0));
    let data = frame(Kind::Data, 1, Flags::END, 1);
    let early = Violation::UnexpectedInCall { kind: Kind::Data, stream: 1 };
    assert_eq!(connection.from_caller(data), Err(early));
    connection.from_instance(plain(Kind::Accept, 1)).unwrap();
    assert_eq!(connection.call(1).map(Call::body_window), Some(INITIAL_CREDIT - 100));
    connection.from_caller(data).unwrap();
    assert_eq!(connection.call(1).map(Call::body_window), Some(0), "the body is complete");
}

#[test]
fn credit_bounds_both_directions() {
    let mut connection = open();
    connection.from_caller(frame(Kind::Invoke, 1, Flags::NONE, INITIAL_CREDIT)).unwrap();
    let too_much = Violation::Credit { stream: 1, bytes: 1, credit: 0 };
    assert_eq!(connection.from_caller(frame(Kind::Data, 1, Flags::NONE, 1)), Err(too_much));
    connection.from_instance(frame(Kind::Credit, 1, Flags::NONE, 7)).unwrap();
    connection.from_caller(frame(Kind::Data, 1, Flags::NONE, 7)).unwrap();
    assert_eq!(connection.from_caller(frame(Kind::Data, 1, Flags::NONE, 1)), Err(too_much));

    connection.from_instance(frame(Kind::Answer, 1, Flags::NONE, INITIAL_CREDIT - 1)).unwrap();
    let data = frame(Kind::Data, 1, Flags::NONE, 2);
    assert_eq!(connection.from_instance(data), Err(Violation::Credit { stream: 1, bytes: 2, credit: 1 }));
    connection.from_caller(frame(Kind::Credit, 1, Flags::NONE, 1)).unwrap();
    assert_eq!(connection.from_instance(data), Ok(Step::Continue));
    for bytes in [0, MAX_CREDIT + 1, u32::MAX] {
        let given = connection.from_caller(frame(Kind::Credit, 1, Flags::NONE, bytes));
        assert_eq!(given, Err(Violation::CreditGiven { stream: 1, bytes }));
    }
}

#[test]
fn a_cancelled_call_holds_its_slot_until_the_instance_ends_it() {
    let mut connection = open();
    connection.from_caller(frame(Kind::Invoke, 1, Flags::END, 0)).unwrap();
    let end = plain(Kind::End, 1);
    let not_cancelled = Violation::UnexpectedInCall { kind: Kind::End, stream: 1 };
    assert_eq!(connection.from_instance(end), Err(not_cancelled));
    connection.from_caller(plain(Kind::Cancel, 1)).unwrap();
    // An answer that was on its way.
    assert_eq!(connection.from_instance(frame(Kind::Answer, 1, Flags::NONE, 5)), Ok(Step::Continue));
    assert_eq!(connection.open_calls(), 1);
    assert_eq!(connection.from_instance(end), Ok(Step::Over));
}

#[test]
fn what_crosses_the_end_of_a_call_is_stale() {
    let mut connection = open();
    connection.from_caller(frame(Kind::Invoke, 1, Flags::NONE, 0)).unwrap();
    connection.from_instance(plain(Kind::Error, 1)).unwrap();
    for kind in [Kind::Data, Kind::Cancel, Kind::Credit] {
        assert_eq!(connection.from_caller(frame(kind, 1, Flags::NONE, 1)), Ok(Step::Stale), "{kind}");
        let unknown = Violation::UnknownCall { kind, stream: 2 };
        assert_eq!(connection.from_caller(frame(kind, 2, Flags::NONE, 1)), Err(unknown));
    }
}

#[test]
fn busy_only_before_anything_was_answered() {
    let mut connection = open();
    for stream in [1, 2, 3] {
        connection.from_caller(frame(Kind::Invoke, stream, Flags::new(true, true), 0)).unwrap();
    }
    connection.from_instance(plain(Kind::Accept, 3)).unwrap();
    let accepted = Violation::UnexpectedInCall { kind: Kind::Busy, stream: 3 };
    assert_eq!(connection.from_instance(plain(Kind::Busy, 3)), Err(accepted));
    assert_eq!(connection.from_instance(plain(Kind::Busy, 1)), Ok(Step::Over));
    connection.from_instance(frame(Kind::Answer, 2, Flags::NONE, 0)).unwrap();
    let late = Violation::UnexpectedInCall { kind: Kind::Busy, stream: 2 };
    assert_eq!(connection.from_instance(plain(Kind::Busy, 2)), Err(late));
    assert_eq!(connection.from_instance(plain(Kind::Trailers, 2)), Ok(Step::Over));
}

#[test]
fn each_role_has_its_frames() {
    let mut control = Connection::new(Role::Control);
    control.from_caller(plain(Kind::Hello, 0)).unwrap();
    control.from_instance(plain(Kind::Welcome, 0)).unwrap();
    control.from_instance(plain(Kind::Log, 0)).unwrap();
    control.from_instance(plain(Kind::Exit, 0)).unwrap();
    control.from_caller(plain(Kind::Drain, 0)).unwrap();
    let invoke = frame(Kind::Invoke, 1, Flags::END, 0);
    assert_eq!(control.from_caller(invoke), Err(Violation::Unexpected(Kind::Invoke)));

    let mut invoke = open();
    assert_eq!(invoke.from_instance(plain(Kind::Log, 0)), Err(Violation::Unexpected(Kind::Log)));
    assert_eq!(invoke.from_instance(plain(Kind::Loaded, 0)), Err(Violation::Unexpected(Kind::Loaded)));
    invoke.from_caller(plain(Kind::Load, 0)).unwrap();
    assert_eq!(invoke.from_caller(plain(Kind::Load, 0)), Err(Violation::Unexpected(Kind::Load)));
    invoke.from_instance(plain(Kind::Loaded, 0)).unwrap();
    invoke.from_instance(plain(Kind::Drain, 0)).unwrap();
    assert_eq!(control.from_instance(plain(Kind::Drain, 0)), Err(Violation::Unexpected(Kind::Drain)));

    let mut attach = Connection::new(Role::Attach);
    attach.from_caller(plain(Kind::Attach, 0)).unwrap();
    attach.from_instance(plain(Kind::Accept, 0)).unwrap();
    assert_eq!(attach.phase(), Phase::Raw);
    assert_eq!(attach.from_instance(plain(Kind::Pong, 0)), Err(Violation::Unexpected(Kind::Pong)));
}

#[test]
fn a_refused_connection_is_closed() {
    let mut connection = Connection::new(Role::Invoke);
    connection.from_caller(plain(Kind::Hello, 0)).unwrap();
    connection.from_instance(plain(Kind::Error, 0)).unwrap();
    assert_eq!(connection.phase(), Phase::Closed);
    assert_eq!(connection.from_caller(plain(Kind::Ping, 0)), Err(Violation::Unexpected(Kind::Ping)));
}

#[test]
fn open_calls_are_bounded() {
    let mut connection = open();
    for stream in 1..=u32::try_from(MAX_OPEN_CALLS).unwrap() {
        connection.from_caller(frame(Kind::Invoke, stream, Flags::END, 0)).unwrap();
    }
    let stream = connection.next_stream().unwrap();
    let one_more = connection.from_caller(frame(Kind::Invoke, stream, Flags::END, 0));
    assert_eq!(one_more, Err(Violation::TooManyCalls));
}
