//! Load balancers of a lab: for each client a connection of their own to the target, from a port of their own. haproxy where
//! it is installed, else a small relay in this process. Knows no policy.
//!
//! Neither asks the target for anything that no client asked for: a health check is a probe of the lab like any other, so
//! that every packet has a probe it belongs to.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::{prctl, signal::Signal};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::netns;

/// How long a relay waits for its target, and haproxy may take to start.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client may say before the target is there.
const REQUEST: usize = 8 << 10;

/// One port that is relayed, in one family.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// Where clients come to.
    pub listen: SocketAddr,
    /// Where answers come from.
    pub target: SocketAddr,
}

/// Which proxy plays the load balancer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// haproxy, where it is installed.
    #[default]
    Best,
    /// The one in this process.
    BuiltIn,
}

/// The haproxy of this machine, if there is one.
pub fn haproxy() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Users who are not root seldom have it in theirs.
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join("haproxy")).find(|path| path.is_file())
}

/// A haproxy at work. Ends when dropped, and with this process.
pub struct Haproxy {
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Haproxy {
    /// Starts one inside a namespace, and waits until it listens.
    ///
    /// # Errors
    /// It does not start; what it said is in the error.
    pub fn start(program: &Path, namespace: &str, ports: &[Relayed]) -> io::Result<Self> {
        let mut config = NamedTempFile::new()?;
        config.write_all(configuration(ports).as_bytes())?;
        let (stop, stopped) = mpsc::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        let failed_early = ready.clone();
        let mut started = Self { stop: Some(stop), keeper: None };
        let (program, namespace, ports) = (program.to_owned(), namespace.to_owned(), ports.to_vec());
        // It is to end when the thread that started it does, so that thread stays: a process that is killed leaves none behind.
        let keeper = thread::Builder::new().name("haproxy".into()).spawn(move || {
            let kept = netns::within(Some(&namespace), move || {
                let mut child = launch(&program, config.path())?;
                let listens = wait(&mut child, &ports);
                let failed = listens.is_err();
                let _ = ready.send(listens);
                if !failed {
                    let _ = stopped.recv();
                }
                let _ = child.kill();
                child.wait()
            });
            if let Err(error) | Ok(Err(error)) = kept {
                let _ = failed_early.send(Err(error));
            }
        })?;
        started.keeper = Some(keeper);
        is_ready.recv().map_err(|_| io::Error::other("haproxy was not started"))??;
        Ok(started)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

fn configuration(ports: &[Relayed]) -> String {
    // Nothing is tried twice and nothing is asked unbidden: the lab's probes account for every packet.
    let mut text = String::from(
        "defaults\n  mode tcp\n  option abortonclose\n  retries 0\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n",
    );
    for (index, Relayed { listen, target }) in ports.iter().enumerate() {
        let only = if listen.is_ipv6() { " v6only" } else { "" };
        let _ = write!(text, "listen port{index}\n  bind {listen}{only}\n  server target {target}\n");
    }
    text
}

fn launch(program: &Path, config: &Path) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(["-db", "-q", "-f"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: prctl is one system call, which may be made between fork and exec.
    unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)) };
    command.spawn()
}

/// Waits until every port is open in this thread's namespace.
fn wait(child: &mut Child, ports: &[Relayed]) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        if ports.iter().map(|port| listens(port.listen)).collect::<io::Result<Vec<_>>>()?.into_iter().all(|it| it) {
            return Ok(());
        }
        if child.try_wait()?.is_some() || Instant::now() > end {
            let _ = child.kill();
            let mut said = String::new();
            if let Some(mut errors) = child.stderr.take() {
                errors.read_to_string(&mut said)?;
            }
            return Err(io::Error::other(format!("haproxy does not start: {}", said.trim())));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a TCP port is open in this thread's namespace.
fn listens(address: SocketAddr) -> io::Result<bool> {
    const LISTEN: &str = "0A";
    let table = if address.is_ipv4() { "tcp" } else { "tcp6" };
    let port = format!(":{:04X}", address.port());
    Ok(fs::read_to_string(format!("/proc/thread-self/net/{table}"))?.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some(LISTEN)
    }))
}

/// Serves one client of the relay in this process: a connection to the target from the relay's own host, and every byte
/// carried. Either end that goes takes the other with it.
pub async fn relay(mut client: TcpStream, namespace: &str, target: SocketAddr) -> io::Result<()> {
    let socket = {
        let namespace = namespace.to_owned();
        tokio::task::spawn_blocking(move || netns::within(Some(&namespace), || open(target))).await???
    };
    let mut asked = Vec::new();
    let mut target = tokio::select! {
        made = timeout(PATIENCE, TcpSocket::from_std_stream(socket.into()).connect(target)) => made??,
        gone = hear(&mut client, &mut asked) => return gone,
    };
    SockRef::from(&target).set_linger(Some(Duration::ZERO))?;
    target.write_all(&asked).await?;
    copy_bidirectional(&mut client, &mut target).await?;
    Ok(())
}

fn open(target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Takes in what a client says while there is nobody yet to hear it. Ends when the client goes.
async fn hear(client: &mut TcpStream, asked: &mut Vec<u8>) -> io::Result<()> {
    while asked.len() < REQUEST {
        if client.read_buf(asked).await? == 0 {
            return Ok(());
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_has_a_target_of_its_own() {
        let relayed = |listen: &str, target: &str| Relayed {
            listen: listen.parse().expect("address"),
            target: target.parse().expect("address"),
        };
        let text = configuration(&[relayed("0.0.0.0:80", "10.0.2.10:8080"), relayed("[::]:80", "[2001:db8::10]:8080")]);
        assert!(text.contains("  bind 0.0.0.0:80\n  server target 10.0.2.10:8080\n"), "{text}");
        assert!(text.contains("  bind [::]:80 v6only\n  server target [2001:db8::10]:8080\n"), "{text}");
    }
}
