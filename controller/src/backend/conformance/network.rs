//! What an instance may reach.

use super::{Failure, GRACE, Suite, text};
use crate::backend::Network;

pub(super) async fn without_a_network_there_is_only_loopback(suite: &Suite) -> Result<(), Failure> {
    let outside: String = suite
        .fixture
        .reachable
        .iter()
        .chain(&suite.fixture.unreachable)
        .map(|at| format!("('{}', {}),", at.ip(), at.port()))
        .collect();
    let script = format!(
        "
check(2, [name for _, name in socket.if_nameindex()] == ['lo'])
server = socket.create_server(('127.0.0.1', 0))
check(3, reaches(*server.getsockname()))
for number, (host, port) in enumerate([{outside}]): check(10 + number, not reaches(host, port))
"
    );
    suite.passes(&script, |_| {}).await
}

pub(super) async fn with_a_network_the_gateway_is_reached_and_nothing_else_of_the_host(
    suite: &Suite,
) -> Result<(), Failure> {
    if !suite.fixture.networks {
        return Ok(());
    }
    let list = |addresses: &[std::net::SocketAddr]| -> String {
        addresses.iter().map(|at| format!("('{}', {}),", at.ip(), at.port())).collect()
    };
    let script = format!(
        "
server = socket.create_server(('127.0.0.1', 0))
check(2, reaches(*server.getsockname()))
for number, (host, port) in enumerate([{}]): check(10 + number, reaches(host, port))
for number, (host, port) in enumerate([{}]): check(20 + number, not reaches(host, port))
check(3, 'inet6' not in open('/proc/net/if_inet6').read() if os.path.exists('/proc/net/if_inet6') else True)
",
        list(&suite.fixture.reachable),
        list(&suite.fixture.unreachable)
    );
    suite.passes(&script, |spec| spec.network = Network::Outbound).await
}

pub(super) async fn another_instance_is_out_of_reach(suite: &Suite) -> Result<(), Failure> {
    if !suite.fixture.networks {
        return Ok(());
    }
    let listen = "
server = socket.create_server(('0.0.0.0', 9999), backlog=100)
while True: server.accept()[0].close()
";
    let mut listener = suite.spec(listen);
    listener.network = Network::Outbound;
    suite.backend().start(&listener).await.map_err(text)?;
    // Backends give addresses out in turn, so the other is near, whichever was first.
    let target =
        suite.fixture.reachable.first().map_or_else(|| "192.0.2.1".to_owned(), |at| at.ip().to_string());
    let script = format!(
        "
import struct
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect(('{target}', 9))
own, = struct.unpack('!I', socket.inet_aton(probe.getsockname()[0]))
server = socket.create_server(('0.0.0.0', 9999))
check(2, reaches(socket.inet_ntoa(struct.pack('!I', own)), 9999))
pending = []
for distance in range(-6, 7):
    # Beyond the subnet is the outside, where anybody may answer.
    if distance == 0 or (own + distance) >> 8 != own >> 8: continue
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex((socket.inet_ntoa(struct.pack('!I', own + distance)), 9999))
    pending.append(one)
time.sleep(1)
def connected(one):
    try: return bool(one.getpeername())
    except OSError: return False
check(3, not any(connected(one) for one in pending))
"
    );
    suite.passes(&script, |spec| spec.network = Network::Outbound).await?;
    suite.backend().stop(&listener.id, GRACE).await.map_err(text)
}
