//! What containers of somebody else look like to a firewall: a link of the host with a network namespace behind it in which somebody
//! listens, a published port, and an address of the kind where clouds keep credentials.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ports::free_port;

const PORT: u16 = 8000;

/// Two of them, and a port of the host that leads to the first. All of it goes when this does.
#[derive(Debug)]
pub(crate) struct Containers {
    /// The links of the host; what is made carries the first one's name.
    pub(crate) links: [String; 2],
    /// Where they listen.
    pub(crate) addresses: [SocketAddr; 2],
    /// The first one's link-local address.
    pub(crate) link_local: SocketAddr,
    /// The published port.
    pub(crate) published: u16,
    _listeners: Vec<TcpListener>,
}

impl Containers {
    /// Makes them, unless this machine lacks the programs for it.
    pub(crate) fn start() -> Result<Self, String> {
        let process = std::process::id();
        // RFC 2544's networks, which nobody uses; a third number of each process's own.
        let [_, _, _, third] = (process % 250).to_be_bytes();
        let links = ["fa", "fb"].map(|which| format!("{which}{process:x}"));
        let address = |network: [u8; 2], last| Ipv4Addr::new(network[0], network[1], third, last);
        let networks = [[198, 18], [198, 19]];
        let mut this = Self {
            links,
            addresses: networks.map(|network| SocketAddr::from((address(network, 2), PORT))),
            link_local: SocketAddr::from((address([169, 254], 2), PORT)),
            published: free_port(),
            _listeners: Vec::new(),
        };
        for (link, network) in this.links.clone().iter().zip(networks) {
            run(&format!("ip netns add {link}"))?;
            run(&format!("ip link add {link} type veth peer name eth0 netns {link}"))?;
            for network in [network, [169, 254]] {
                run(&format!("ip address add {}/24 dev {link}", address(network, 1)))?;
                run(&format!("ip -n {link} address add {}/24 dev eth0", address(network, 2)))?;
                if link == &this.links[1] {
                    break;
                }
            }
            run(&format!("ip link set {link} up"))?;
            run(&format!("ip -n {link} link set eth0 up"))?;
            run(&format!("ip -n {link} route add default via {}", address(network, 1)))?;
            this._listeners.push(listen_in(link));
        }
        run(&format!("iptables -w 5 -t nat -A {}", this.rule()))?;
        for at in this.addresses.iter().chain([&this.link_local]) {
            let reached = TcpStream::connect_timeout(at, Duration::from_secs(5));
            assert!(reached.is_ok(), "the host itself does not reach {at}: {reached:?}");
        }
        Ok(this)
    }

    /// How many packets to the published port were sent on to the container's address, whatever became of them there.
    pub(crate) fn translated(&self) -> u64 {
        let rules = run("iptables -w 5 -t nat -v -S PREROUTING").expect("it was there before");
        let line = rules.lines().find(|line| line.contains(&self.links[0])).expect("our rule is there");
        let mut words = line.split_whitespace().skip_while(|word| *word != "-c");
        words.nth(1).and_then(|count| count.parse().ok()).expect("-c packets bytes")
    }

    fn rule(&self) -> String {
        let (port, link, to) = (self.published, &self.links[0], self.addresses[0]);
        format!("PREROUTING -p tcp --dport {port} -m comment --comment {link} -j DNAT --to-destination {to}")
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // What was not made is not there to be taken away.
        let _absent = run(&format!("iptables -w 5 -t nat -D {}", self.rule())).is_err();
        for link in &self.links {
            let _absent = run(&format!("ip link delete {link}")).is_err();
            let _absent = run(&format!("ip netns delete {link}")).is_err();
        }
    }
}

/// A listener in a network namespace: a socket stays in the one it was made in.
fn listen_in(namespace: &str) -> TcpListener {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace was made");
    let listening = std::thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
        TcpListener::bind(("0.0.0.0", PORT)).expect("nobody else is there")
    });
    listening.join().expect("it does not panic")
}

fn run(command: &str) -> Result<String, String> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output()
        .map_err(|error| format!("{command}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
