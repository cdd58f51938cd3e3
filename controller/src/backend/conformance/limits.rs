//! What an instance may use.

use std::time::Duration;

use super::{Failure, Suite, check, text, until};
use crate::backend::Limits;

pub(super) async fn memory_that_runs_out_is_told(suite: &Suite) -> Result<(), Failure> {
    let mut spec = suite.spec("hoard = bytearray(256 << 20)\nhoard[::4096] = b'x' * len(hoard[::4096])");
    spec.limits.memory_bytes = 48 << 20;
    let exit = suite.finish(&spec).await?;
    check(exit.out_of_memory && exit.code != Some(0), || format!("out of memory was told as {exit:?}"))
}

pub(super) async fn processes_are_limited(suite: &Suite) -> Result<(), Failure> {
    let script = "
children = 0
try:
    while children < 100:
        if os.fork() == 0: time.sleep(100)
        children += 1
except OSError as error: check(2, error.errno == errno.EAGAIN)
check(3, 1 <= children < 20)
";
    suite.passes(script, |spec| spec.limits.pids = 20).await
}

pub(super) async fn processes_that_were_refused_are_counted(suite: &Suite) -> Result<(), Failure> {
    let script = "
for _ in range(100):
    try:
        if os.fork() == 0: time.sleep(100)
    except OSError: pass
time.sleep(100)
";
    let mut spec = suite.spec(script);
    spec.limits.pids = 20;
    let backend = suite.backend();
    backend.start(&spec).await.map_err(text)?;
    until("it is refused some", || async {
        backend.stats(&spec.id).await.is_ok_and(|stats| stats.pids_refused >= 80 && stats.pids == 20)
    })
    .await
}

pub(super) async fn the_temporary_directory_is_limited(suite: &Suite) -> Result<(), Failure> {
    let script = "
def fill():
    with open('/tmp/full', 'wb') as file:
        for _ in range(16): file.write(bytes(1 << 20)); file.flush()
open('/tmp/small', 'w').write('fits')
check(2, fails(fill, errno.ENOSPC))
check(3, 2 << 20 <= os.stat('/tmp/full').st_size <= 4 << 20)
";
    suite.passes(script, |spec| spec.limits.tmp_bytes = 4 << 20).await
}

pub(super) async fn a_quota_slows_down(suite: &Suite) -> Result<(), Failure> {
    let spec = suite.spec("while True: pass");
    let backend = suite.backend();
    backend.start(&spec).await.map_err(text)?;
    let cpu = || async { backend.stats(&spec.id).await.map(|stats| stats.cpu).unwrap_or_default() };
    until("it runs", || async { cpu().await > Duration::from_millis(100) }).await?;
    backend.limit(&spec.id, &Limits { cpu_millis: Some(100), ..spec.limits }).await.map_err(text)?;
    let (before, begin) = (cpu().await, tokio::time::Instant::now());
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let (used, passed) = (cpu().await - before, begin.elapsed());
    // A tenth was allowed; without a quota it is close to all of one core, on a machine with a core to spare half of it at least.
    check(used < passed / 4, || format!("with a quota of a tenth it used {used:?} in {passed:?}"))
}

pub(super) async fn limits_can_be_changed(suite: &Suite) -> Result<(), Failure> {
    let script = "
while os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize != 2 << 20: time.sleep(0.005)
hoard = bytearray(100 << 20)
hoard[::4096] = b'x' * len(hoard[::4096])
";
    let mut spec = suite.spec(script);
    spec.limits.memory_bytes = 48 << 20;
    suite.backend().start(&spec).await.map_err(text)?;
    let more = Limits { memory_bytes: 200 << 20, tmp_bytes: 2 << 20, ..spec.limits };
    suite.backend().limit(&spec.id, &more).await.map_err(text)?;
    let exit = suite.end(&spec.id).await;
    check(exit.code == Some(0), || format!("with more memory it ended as {exit:?}"))
}
