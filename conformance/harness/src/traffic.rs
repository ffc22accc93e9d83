//! Real traffic between namespaces: servers that tell their callers who they seem to be.

use crate::netns::Container;
use cni_common::kernel::netns::Netns;
use socket2::{Domain, Protocol, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// How long a caller waits for an answer before the port counts as closed. One lost packet must not decide:
/// Linux sends SCTP's first one again after 3 seconds (`net.sctp.rto_initial`), a third time after 9, and a
/// fourth after 21. On a busy emulated machine two were not enough.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a caller asks by UDP, which never sends again by itself, and how long it waits each time.
const ASKED_BY_UDP: u32 = 4;
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP, in its one-to-one style: to a program it is like TCP.
    Sctp,
}

impl Transport {
    /// As a port mapping names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// A socket of a protocol with connections.
    fn stream(self, address: SocketAddr) -> io::Result<socket2::Socket> {
        let protocol = if self == Self::Sctp { Protocol::SCTP } else { Protocol::TCP };
        socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))
    }
}

/// Runs `work` in the namespace at `path`, or in the calling thread's own. Sockets that it makes stay there.
fn in_namespace<T>(path: Option<&Path>, work: impl FnOnce() -> T) -> T {
    let Some(path) = path else { return work() };
    let done = Netns::open(path).and_then(|netns| netns.run(|| Ok(work())));
    done.unwrap_or_else(|error| panic!("{error}"))
}

/// Answers every caller of `port`, IPv4 and IPv6, with the address that it calls from and `name`, until the process ends.
///
/// # Panics
/// When the port is taken.
pub fn serve(container: Option<&Container>, transport: Transport, port: u16, name: &'static str) {
    serve_at(container.map(Container::path).as_deref().map(Path::new), transport, port, name);
}

/// As [`serve`], in the namespace at `path`.
///
/// # Panics
/// When the port is taken.
pub fn serve_in(path: &Path, transport: Transport, port: u16, name: &'static str) {
    serve_at(Some(path), transport, port, name);
}

fn serve_at(path: Option<&Path>, transport: Transport, port: u16, name: &'static str) {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let text = move |from: SocketAddr| format!("{} {name}", from.ip().to_canonical());
    match transport {
        Transport::Tcp | Transport::Sctp => {
            let listener = listening(port, in_namespace(path, || listener(transport, all)));
            std::thread::spawn(move || {
                while let Ok((mut stream, from)) = listener.accept() {
                    // Who hangs up first does not want to know.
                    let _ = stream.write_all(text(from).as_bytes());
                }
            });
        }
        Transport::Udp => {
            let socket = listening(port, in_namespace(path, || UdpSocket::bind(all)));
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(text(from).as_bytes(), from);
                }
            });
        }
    }
}

fn listening<T>(port: u16, bound: io::Result<T>) -> T {
    bound.unwrap_or_else(|error| panic!("listen on port {port}: {error}"))
}

/// Who answered, and from which address we seemed to call; `None` when nobody did.
#[must_use]
pub fn ask(container: Option<&Container>, transport: Transport, to: SocketAddr) -> Option<(IpAddr, String)> {
    ask_at(container.map(Container::path).as_deref().map(Path::new), transport, to)
}

/// As [`ask`], from the namespace at `path`, or from the calling thread's own.
#[must_use]
pub fn ask_at(path: Option<&Path>, transport: Transport, to: SocketAddr) -> Option<(IpAddr, String)> {
    let answer = in_namespace(path, || match transport {
        Transport::Tcp | Transport::Sctp => ask_stream(transport, to),
        Transport::Udp => ask_udp(to),
    });
    let answer = answer.ok()?;
    let (ip, name) = answer.split_once(' ')?;
    Some((ip.parse().ok()?, name.to_owned()))
}

/// The standard library's listener only asks its socket for what SCTP's knows too.
fn listener(transport: Transport, at: SocketAddr) -> io::Result<TcpListener> {
    let socket = transport.stream(at)?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn ask_stream(transport: Transport, to: SocketAddr) -> io::Result<String> {
    let socket = transport.stream(to)?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn ask_udp(to: SocketAddr) -> io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    // Only answers from where we asked count.
    socket.connect(to)?;
    socket.set_read_timeout(Some(BETWEEN_QUESTIONS))?;
    let mut buffer = [0; 128];
    let mut answer = Err(io::ErrorKind::TimedOut.into());
    for _ in 0..ASKED_BY_UDP {
        socket.send(b"?")?;
        answer = socket.recv(&mut buffer);
        // Linux tells a timeout as WouldBlock; a refusal is an answer.
        if !matches!(&answer, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&buffer[..answer?]).into_owned())
}
