//! What an instance sees and may do.

use super::{Failure, Suite};
use crate::backend::Ability;

pub(super) async fn the_root_cannot_be_written(suite: &Suite) -> Result<(), Failure> {
    let script = format!(
        "
places = ['/', '/usr', '/etc', '/hearth'] + ['/code'] * {}
for number, path in enumerate(places):
    check(10 + number, os.statvfs(path).f_flag & os.ST_RDONLY)
    check(20 + number, fails(lambda: open(path + '/x', 'w'), errno.EROFS))
check(2, fails(lambda: open('/etc/passwd', 'a')))
check(3, fails(lambda: open('/proc/sys/kernel/hostname', 'w')))
open('/tmp/x', 'w').write('x')
if {}: check(4, fails(lambda: os.listdir('/run/hearth'), errno.EACCES))
",
        suite.python(Ability::ReadOnlyCode),
        suite.python(Ability::OwnUser),
    );
    suite.passes(&script, |_| {}).await
}

pub(super) async fn code_is_there_and_cannot_be_written(suite: &Suite) -> Result<(), Failure> {
    let script = format!(
        "
mounted = {}
check(2, open('/code/hello.txt').read() == 'hello')
check(3, os.getcwd() == '/code')
if mounted: check(4, fails(lambda: open('/code/x', 'w'), errno.EROFS))
check(5, fails(lambda: open('/code/hello.txt', 'a'), errno.EROFS, errno.EACCES))
check(6, open('/deps/hello.txt').read() == 'hello')
if mounted: check(7, fails(lambda: open('/deps/x', 'w'), errno.EROFS))
check(8, os.readlink('/node_modules') == '/deps/node_modules')
",
        suite.python(Ability::ReadOnlyCode),
    );
    let mut code = suite.code("code")?;
    code.dependencies = Some(suite.code("deps")?.path);
    suite.passes(&script, |spec| spec.code = Some(code)).await
}

pub(super) async fn the_function_has_no_rights(suite: &Suite) -> Result<(), Failure> {
    let script = format!(
        "
check(2, os.getresuid() == (65532,) * 3 and os.getresgid() == (65532,) * 3)
check(3, os.getgroups() in ([], [65532]))
status = dict(line.split(':', 1) for line in open('/proc/self/status').read().splitlines())
for number, which in enumerate(['CapInh', 'CapPrm', 'CapEff', 'CapAmb']):
    check(10 + number, int(status[which], 16) == 0)
check(4, status['NoNewPrivs'].strip() == '1')
check(5, status['Seccomp'].strip() == '2')
check(6, fails(lambda: os.setuid(0), errno.EPERM))
if {}: check(7, fails(lambda: os.kill(1, 9), errno.EPERM))
check(8, fails(lambda: open('/proc/1/environ').read()))
check(9, fails(lambda: os.mknod('/tmp/device', 0o020666, os.makedev(1, 3)), errno.EPERM))
",
        suite.python(Ability::OwnUser),
    );
    suite.passes(&script, |_| {}).await
}

pub(super) async fn nothing_of_the_host_is_seen(suite: &Suite) -> Result<(), Failure> {
    let script = format!(
        "
processes = [int(name) for name in os.listdir('/proc') if name.isdigit()]
check(2, len(processes) <= 4 and 1 in processes and os.getpid() in processes)
if {}:
    check(3, not os.path.exists('/sys/fs/cgroup/memory') and not os.path.exists('/sys/fs/cgroup/cgroup.procs'))
    check(4, ' cgroup' not in open('/proc/self/mountinfo').read())
for number, path in enumerate(['/home', '/root/.ssh', '/var/lib', '/etc/shadow', '/boot', '/run/docker.sock']):
    check(10 + number, not os.path.exists(path))
devices = set(os.listdir('/dev'))
check(5, {{'null', 'zero', 'urandom'}} <= devices and not devices & {{'mem', 'kmem', 'sda', 'vda', 'kvm', 'fuse'}})
def content(path):
    try: return open(path, 'rb').read(1)
    except OSError: return b''
for number, path in enumerate(['/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/sysrq-trigger']):
    check(20 + number, content(path) == b'')
check(6, os.uname().nodename == socket.gethostname())
check(7, sum(fd.isdigit() for fd in os.listdir('/proc/self/fd')) <= 7)
",
        suite.python(Ability::HideGroups),
    );
    suite.passes(&script, |_| {}).await
}

pub(super) async fn only_its_own_environment_is_seen(suite: &Suite) -> Result<(), Failure> {
    let script = "
check(2, os.environ.get('GREETING') == 'hi')
check(3, not set(os.environ) & {'CARGO', 'SUDO_USER', 'SSH_CONNECTION', 'KUBECONFIG', 'HEARTH_SECRET'})
check(4, '0123456789abcdef' * 4 not in str(os.environ))
";
    suite.passes(script, |_| {}).await
}
