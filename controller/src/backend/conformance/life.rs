//! Starting, ending, finding, freezing, bringing code in.

use std::time::Duration;

use futures_util::future::join_all;
use hearth_function::InstanceId;
use tokio::time::{Instant, timeout};

use super::{Failure, GRACE, Suite, check, is_not_found, text, until};
use crate::backend::{Ability, Address, CodeMount, Error, control};

/// Long enough for a stop to have begun.
const SHORT: Duration = Duration::from_millis(500);

/// Sleeps until it is stopped.
const SLEEP: &str = "time.sleep(1000)";

pub(super) async fn an_instance_starts_is_found_and_stops(suite: &Suite) -> Result<(), Failure> {
    let spec = suite.spec(SLEEP);
    let backend = suite.backend();
    let started = backend.start(&spec).await.map_err(text)?;
    for address in [&started.invoke, &started.control] {
        until("both sockets listen", || async {
            match address {
                Address::Unix(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
                Address::Tcp(address) => tokio::net::TcpStream::connect(address).await.is_ok(),
            }
        })
        .await?;
    }
    if suite.can(Ability::Measure) {
        measured(suite, &spec.id).await?;
    } else {
        backend.stats(&spec.id).await.map_err(text)?;
    }
    let list = backend.list().await.map_err(text)?;
    let found =
        list.iter().find(|found| found.spec.id == spec.id).ok_or("the instance is not in the list")?;
    check(found.ended.is_none() && found.started == started, || format!("found as {found:?}"))?;
    backend.stop(&spec.id, GRACE).await.map_err(text)?;
    suite.end(&spec.id).await;
    let list = backend.list().await.map_err(text)?;
    check(!list.iter().any(|found| found.spec.id == spec.id), || {
        "a stopped instance is in the list".to_owned()
    })?;
    suite.nothing_left(&spec.id)
}

async fn measured(suite: &Suite, id: &InstanceId) -> Result<(), Failure> {
    let backend = suite.backend();
    until("the job is counted", || async { backend.stats(id).await.is_ok_and(|stats| stats.pids >= 2) })
        .await?;
    let stats = backend.stats(id).await.map_err(text)?;
    check(
        stats.memory_bytes > 0 && stats.memory_peak_bytes >= stats.memory_bytes && stats.cpu > Duration::ZERO,
        || format!("the instance uses nothing: {stats:?}"),
    )
}

pub(super) async fn stopping_what_is_gone_is_no_error(suite: &Suite) -> Result<(), Failure> {
    let spec = suite.spec(SLEEP);
    let backend = suite.backend();
    backend.stop(&spec.id, GRACE).await.map_err(text)?;
    backend.start(&spec).await.map_err(text)?;
    let (first, second) = tokio::join!(backend.stop(&spec.id, GRACE), backend.stop(&spec.id, GRACE));
    first.and(second).map_err(text)?;
    backend.stop(&spec.id, GRACE).await.map_err(text)?;
    check(is_not_found(&backend.stats(&spec.id).await), || "stats of a stopped instance".to_owned())?;
    check(is_not_found(&backend.pause(&spec.id).await), || "a stopped instance was paused".to_owned())?;
    suite.nothing_left(&spec.id)
}

pub(super) async fn a_stop_is_shortened_by_another_with_less_grace(suite: &Suite) -> Result<(), Failure> {
    // By itself it would take longer than the case may.
    let spec = suite.spec(&format!(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n{SLEEP}"
    ));
    let backend = suite.backend();
    let started = backend.start(&spec).await.map_err(text)?;
    let deadline = Instant::now() + suite.fixture.patience;
    let connected = control::connect_control(&started.control, &spec.secret, 0, deadline).await;
    let (mut events, _commands) = connected.map_err(text)?;
    let said = events.next().await.map_err(text)?;
    check(matches!(said, Some(control::Event::Log(_))), || format!("it did not print, but: {said:?}"))?;
    let long = suite.fixture.patience * 2;
    let mut first = backend.stop(&spec.id, long);
    // It waits for the instance to end.
    let early = timeout(SHORT, &mut first).await;
    check(early.is_err(), || format!("a process that heeds no SIGTERM was stopped: {early:?}"))?;
    let (first, second) = tokio::join!(first, backend.stop(&spec.id, Duration::ZERO));
    first.and(second).map_err(text)?;
    suite.nothing_left(&spec.id)
}

pub(super) async fn a_name_serves_once(suite: &Suite) -> Result<(), Failure> {
    let spec = suite.spec(SLEEP);
    let backend = suite.backend();
    backend.start(&spec).await.map_err(text)?;
    let again = backend.start(&spec).await;
    check(matches!(again, Err(Error::Invalid { .. })), || format!("a second start of one name: {again:?}"))?;
    backend.stats(&spec.id).await.map_err(text)?;
    backend.stop(&spec.id, GRACE).await.map_err(text)
}

pub(super) async fn the_exit_code_is_told(suite: &Suite) -> Result<(), Failure> {
    let exit = suite.finish(&suite.spec("sys.exit(7)")).await?;
    let right = exit.code == Some(7) && exit.signal.is_none() && !exit.out_of_memory;
    check(right, || format!("exit code 7 was told as {exit:?}"))
}

pub(super) async fn the_signal_is_told(suite: &Suite) -> Result<(), Failure> {
    let exit = suite.finish(&suite.spec("os.kill(os.getpid(), 9)")).await?;
    let right = exit.signal == Some(9) && exit.code.is_none() && !exit.out_of_memory;
    check(right, || format!("signal 9 was told as {exit:?}"))
}

pub(super) async fn a_job_leaves_its_result_in_the_build_directory(suite: &Suite) -> Result<(), Failure> {
    let directory = suite.fixture.directory.join("build");
    std::fs::create_dir_all(&directory).map_err(text)?;
    let script = "check(2, os.getcwd() == '/build')\nopen('/build/result', 'w').write('made')";
    suite.passes(script, |spec| spec.build_dir = Some(directory.clone())).await?;
    let result = std::fs::read_to_string(directory.join("result")).map_err(text)?;
    check(result == "made", || format!("the result is {result:?}"))
}

pub(super) async fn a_start_that_fails_leaves_nothing(suite: &Suite) -> Result<(), Failure> {
    let mut spec = suite.spec(SLEEP);
    spec.code = Some(CodeMount { path: "/does/not/exist".into(), dependencies: None });
    let started = suite.backend().start(&spec).await;
    check(started.is_err(), || "code that is not there was mounted".to_owned())?;
    let list = suite.backend().list().await.map_err(text)?;
    check(!list.iter().any(|found| found.spec.id == spec.id), || "it is in the list".to_owned())?;
    suite.nothing_left(&spec.id)?;
    // The name can be used: it never was.
    spec.code = None;
    suite.backend().start(&spec).await.map_err(text)?;
    suite.backend().stop(&spec.id, GRACE).await.map_err(text)
}

pub(super) async fn several_start_at_once(suite: &Suite) -> Result<(), Failure> {
    let specs: Vec<_> = (0..8).map(|_| suite.spec(SLEEP)).collect();
    for started in join_all(specs.iter().map(|spec| suite.backend().start(spec))).await {
        started.map_err(text)?;
    }
    for spec in &specs {
        suite.backend().stats(&spec.id).await.map_err(text)?;
    }
    for stopped in join_all(specs.iter().map(|spec| suite.backend().stop(&spec.id, GRACE))).await {
        stopped.map_err(text)?;
    }
    specs.iter().try_for_each(|spec| suite.nothing_left(&spec.id))
}

pub(super) async fn an_instance_outlives_its_handle(suite: &Suite) -> Result<(), Failure> {
    let (running, dead) = (suite.spec(SLEEP), suite.spec("sys.exit(3)"));
    suite.backend().start(&running).await.map_err(text)?;
    suite.backend().start(&dead).await.map_err(text)?;
    suite.end(&dead.id).await;
    let other = (suite.fixture.reopen)().await;
    let mut ends = other.exits();
    if !suite.can(Ability::Record) {
        until("its end is known", || async {
            let list = other.list().await.unwrap_or_default();
            list.iter().any(|found| found.spec.id == dead.id && found.ended.is_some())
        })
        .await?;
    }
    let list = other.list().await.map_err(text)?;
    let find =
        |id| list.iter().find(|found| found.spec.id == id).ok_or_else(|| format!("{id} was not found again"));
    check(find(running.id.clone())?.ended.is_none(), || "the running one was taken for dead".to_owned())?;
    let ended = find(dead.id.clone())?.ended;
    check(ended.as_ref().is_some_and(|exit| exit.code == Some(3)), || {
        format!("the dead one ended as {ended:?}")
    })?;
    other.stats(&running.id).await.map_err(text)?;
    other.stop(&running.id, GRACE).await.map_err(text)?;
    other.stop(&dead.id, GRACE).await.map_err(text)?;
    let mut told = ends.recv().await;
    if !suite.can(Ability::Record) && told.as_ref().is_some_and(|ended| ended.instance == dead.id) {
        told = ends.recv().await;
    }
    check(told.is_some_and(|ended| ended.instance == running.id), || {
        "the end of an adopted instance was not told".to_owned()
    })?;
    suite.nothing_left(&running.id)?;
    suite.nothing_left(&dead.id)
}

pub(super) async fn a_paused_instance_stands_still_until_it_is_resumed(suite: &Suite) -> Result<(), Failure> {
    let spec = suite.spec("while True: pass");
    let backend = suite.backend();
    backend.start(&spec).await.map_err(text)?;
    let cpu = || async { backend.stats(&spec.id).await.map(|stats| stats.cpu).unwrap_or_default() };
    let grows = || async {
        let before = cpu().await;
        tokio::time::sleep(Duration::from_millis(60)).await;
        cpu().await > before + Duration::from_millis(5)
    };
    until("it runs", grows).await?;
    backend.pause(&spec.id).await.map_err(text)?;
    check(!grows().await, || "a paused instance uses the cpu".to_owned())?;
    backend.resume(&spec.id).await.map_err(text)?;
    until("it runs again", grows).await?;
    backend.resume(&spec.id).await.map_err(text)?;
    backend.stop(&spec.id, Duration::ZERO).await.map_err(text)?;
    suite.nothing_left(&spec.id)
}

pub(super) async fn a_paused_instance_can_be_stopped(suite: &Suite) -> Result<(), Failure> {
    let spec = suite.spec(SLEEP);
    suite.backend().start(&spec).await.map_err(text)?;
    suite.backend().pause(&spec.id).await.map_err(text)?;
    suite.backend().stop(&spec.id, GRACE).await.map_err(text)?;
    suite.nothing_left(&spec.id)
}

pub(super) async fn code_comes_in_later_and_once(suite: &Suite) -> Result<(), Failure> {
    let mounted = suite.python(Ability::ReadOnlyCode);
    // What is mounted is there as a whole; what is unpacked comes file by file.
    let script = format!(
        "
while not os.path.exists('/code/hello.txt'): time.sleep(0.005)
if not {mounted}: time.sleep(1)
check(2, open('/code/hello.txt').read() == 'hello')
check(3, open('/deps/hello.txt').read() == 'hello')
if {mounted}: check(4, fails(lambda: open('/code/x', 'w'), errno.EROFS))
if {mounted}: check(5, os.statvfs('/code').f_flag & os.ST_RDONLY and os.statvfs('/deps').f_flag & os.ST_RDONLY)
time.sleep(0.2 if {mounted} else 3)
"
    );
    let spec = suite.spec(&script);
    let mut code = suite.code("injected")?;
    code.dependencies = Some(suite.code("injected-deps")?.path);
    let backend = suite.backend();
    backend.start(&spec).await.map_err(text)?;
    let owner = suite.fixture.owner.clone();
    backend.inject(&spec.id, &code).await.map_err(text)?;
    backend.record(&spec.id, &owner, &code).await.map_err(text)?;
    let found = backend.list().await.map_err(text)?.into_iter().find(|found| found.spec.id == spec.id);
    let told = found.map(|found| (found.spec.owner, found.spec.code));
    check(told == Some((Some(owner.clone()), Some(code.clone()))), || format!("it is found as {told:?}"))?;
    let again = backend.inject(&spec.id, &code).await;
    check(matches!(again, Err(Error::Invalid { .. })), || format!("code came in twice: {again:?}"))?;
    let exit = suite.end(&spec.id).await;
    check(exit.code == Some(0), || format!("the script ended with {exit:?}"))?;
    backend.stop(&spec.id, GRACE).await.map_err(text)
}
