//! Namespaces of the benchmark's own with a veth in them, and programs that are run there. No route leads out of them, and
//! they go with the value, on a signal too.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, UdpSocket},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Command, Stdio},
    sync::Once,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::Xdp;
use nacl_daemon::{
    dataplane::Target,
    lab::net::{self, Namespace, QUIET_IPV6},
    netns,
};
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::kernel::{self, Kernel};

/// The interface under test. Frames of `rules::frame` are addressed to it.
pub const NEAR: &str = "near";
/// Its other end.
pub const FAR: &str = "far";

/// A veth whose one end is under test.
pub struct Place {
    near: Namespace,
    far: Option<Namespace>,
    /// Index of the interface under test.
    pub ifindex: u32,
}

impl Place {
    /// Both ends in one namespace: for frames that the kernel itself has the near end receive.
    pub fn new(name: &str) -> Result<Self> {
        Self::build(Namespace::new("bench", name)?, None)
    }

    /// The far end in a namespace of its own: for frames that are really sent.
    pub fn pair(name: &str) -> Result<Self> {
        let far = Namespace::new("bench", &format!("{name}.far"))?;
        Self::build(Namespace::new("bench", name)?, Some(far))
    }

    fn build(near: Namespace, far: Option<Namespace>) -> Result<Self> {
        for namespace in [Some(&near), far.as_ref()].into_iter().flatten() {
            // What the kernel says by itself on a new link would be counted too.
            namespace.set(&QUIET_IPV6)?;
        }
        let elsewhere = far.as_ref().map(|far| format!(" netns {}", far.name())).unwrap_or_default();
        near.ip(&format!(
            "link add {NEAR} address 02:00:00:00:00:01 type veth peer name {FAR} address 02:00:00:00:00:02{elsewhere}\n\
             link set {NEAR} up\n"
        ))?;
        far.as_ref().unwrap_or(&near).ip(&format!("link set {FAR} up\n"))?;
        let mut place = Self { near, far, ifindex: 0 };
        place.ifindex = place.within(|| if_nametoindex(NEAR))??;
        Ok(place)
    }

    /// Does something where the near end is.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(netns::within(Some(self.near.name()), work)?)
    }

    /// Does something where the far end is.
    pub fn beyond<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(netns::within(Some(self.far.as_ref().unwrap_or(&self.near).name()), work)?)
    }

    /// Index of the far end, where it is.
    pub fn far_index(&self) -> Result<u32> {
        Ok(self.beyond(|| if_nametoindex(FAR))??)
    }

    /// The near end, as nacld is told of it.
    pub fn target(&self) -> Target {
        Target { name: NEAR.into(), netns: Some(self.near.name().into()) }
    }

    /// Has `ip` do these commands where the near end is, one a line.
    pub fn ip(&self, commands: &str) -> Result<()> {
        Ok(self.near.ip(commands)?)
    }

    /// Has `ip` do these commands where the far end is.
    pub fn ip_beyond(&self, commands: &str) -> Result<()> {
        Ok(self.far.as_ref().unwrap_or(&self.near).ip(commands)?)
    }

    /// Makes the near end able to receive live frames: its receive queue is registered with a program on it only. Which
    /// one does not matter, no live frame meets it.
    pub fn ready(&self, kernel: &mut Kernel) -> Result<()> {
        self.attach(kernel, "bare")
    }

    /// Puts a program of the benchmark on the near end, in the driver.
    pub fn attach(&self, kernel: &mut Kernel, name: &str) -> Result<()> {
        let ifindex = self.ifindex;
        self.within(|| kernel.attach(name, ifindex))?
    }

    /// Has a thread of the kernel do the near end's receiving (threaded NAPI), and says which: the sender's CPU would do it
    /// otherwise. With GRO a veth receives by NAPI whether there is an XDP program or not, so all are measured alike.
    pub fn receive_on(&self, pin: impl FnOnce(Pid) -> Result<()>) -> Result<()> {
        self.within(offload)??;
        let before = receivers()?;
        // The command has a /sys of the namespace's own.
        let script = format!("echo 1 > /sys/class/net/{NEAR}/threaded");
        run("ip", &["netns", "exec", self.near.name(), "sh", "-c", &script], "")
            .context("threaded NAPI (Linux 5.12 and later have it)")?;
        let new = receivers()?.into_iter().find(|one| !before.contains(one));
        pin(new.context("no thread receives")?)
    }

    /// Frames that have arrived at the near end, whatever became of them.
    pub fn arrived(&self) -> Result<u64> {
        let text = self.within(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(NEAR)?.strip_prefix(':'));
        Ok(line.and_then(|line| line.split_whitespace().nth(1)).context("no counters")?.parse()?)
    }

    /// Has an XDP program meet frames that the near end receives; see [`kernel::live`].
    pub fn live(&self, program: &mut Xdp, frame: &[u8], frames: u32) -> Result<Duration> {
        let ifindex = self.ifindex;
        self.within(|| {
            // The kernel lets it move to another CPU in between, where the scattering has its own place in the packets.
            pin(Pid::from_raw(0), nix::sched::sched_getcpu()?)?;
            kernel::live(program, frame, ifindex, frames)
        })?
    }

    /// Runs a program where the near end is, with something to read, and returns what it prints.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        self.within(|| run(program, arguments, input))?
    }

    /// IP packets that this namespace's stack has been given.
    pub fn received(&self, family: u8) -> Result<u64> {
        let (file, line, field) =
            if family == 6 { ("snmp6", "Ip6InReceives", None) } else { ("snmp", "Ip:", Some("InReceives")) };
        let text = self.within(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")))??;
        let mut lines = text.lines().filter(|one| one.split_whitespace().next() == Some(line));
        let first: Vec<_> = lines.next().context("no such counter")?.split_whitespace().collect();
        let number = match field {
            None => first.get(1).copied(),
            Some(field) => {
                let at = first.iter().position(|one| *one == field).context("no such counter")?;
                lines.next().and_then(|values| values.split_whitespace().nth(at))
            }
        };
        Ok(number.context("no value")?.parse()?)
    }

    /// Puts a chain behind all that are measured, which counts and drops what they let pass: for every subject the end is
    /// the same then, and the same price is paid for it.
    pub fn catch(&self) -> Result<()> {
        self.run("nft", &["-f", "-"], CATCH).map(drop)
    }

    /// How many packets have come to that end.
    pub fn passed(&self) -> Result<u64> {
        self.nft_counter("inet", "catch", "passed")
    }

    /// Packets of a named counter of nftables.
    pub fn nft_counter(&self, family: &str, table: &str, name: &str) -> Result<u64> {
        let text = self.run("nft", &["-j", "list", "counter", family, table, name], "")?;
        let value: serde_json::Value = serde_json::from_str(&text)?;
        let all = value["nftables"].as_array().context("nft's answer")?;
        all.iter().find_map(|one| one["counter"]["packets"].as_u64()).context("no such counter")
    }
}

/// Behind everything else in prerouting that is used here.
const CATCH: &str = "\
table inet catch {
  counter passed { }
  chain catch {
    type filter hook prerouting priority filter; policy drop; counter name passed
  }
}
";

/// Has a thread run on one CPU only.
pub fn pin(thread: Pid, cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(thread, &set)?)
}

/// The kernel's threads that receive on a near end, of any namespace.
fn receivers() -> Result<Vec<Pid>> {
    let prefix = format!("napi/{NEAR}-");
    let processes = procfs::process::all_processes()?.filter_map(|process| process.ok()?.stat().ok());
    Ok(processes.filter(|stat| stat.comm.starts_with(&prefix)).map(|stat| Pid::from_raw(stat.pid)).collect())
}

/// Switches GRO of the near end on, in the calling thread's namespace.
fn offload() -> Result<()> {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const ETHTOOL_SGRO: u32 = 0x2c;
    let mut value = [ETHTOOL_SGRO, 1_u32];
    // SAFETY: a plain C structure, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NEAR.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: an open socket, and a request that names two numbers which outlive the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    ensure!(done == 0, "switching GRO on: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Runs a program with something to read, and returns what it prints. It ends with this thread.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.to_owned())?;
    if let Some(mut pipe) = child.stdin.take() {
        // When it gives up early its message says more than a broken pipe.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {} {}", arguments.join(" "), said.trim(), String::from_utf8_lossy(&output.stdout).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A program that is ended with the thread that starts it, so that nothing runs on when the benchmark is broken off.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // SAFETY: a system call, which is all that may happen there.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?));
    }
    command
}

/// Why a program cannot be run, where it cannot.
pub fn lacks(program: &str, package: &str) -> Option<String> {
    let found = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    match found {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("{program} --version: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(_) => Some(format!("{program} is not installed (apt-get install {package})")),
    }
}

/// From now on Ctrl-C leaves nothing behind. What an earlier run left, because it was killed, is removed.
pub fn clean_up() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut done = Ok(());
    ONCE.call_once(|| {
        net::sweep();
        done = net::clean_up_on_signals(|| ());
    });
    ensure!(done.is_ok(), "watching for signals: {done:?}");
    Ok(())
}
