//! `nacld watch` and broken returns as a person meets them: the real binary, real programs on a real interface, clients that hang.

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nacl_daemon::netns;
use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use serde_json::Value;
use support::{
    place::{Api, PATIENCE, Place, text},
    policies::{CLOSED, OPEN, lab, near},
    veth::{Cable, HERE, NEAR, THERE},
};

/// Port 443 is asked and its replies die; the host's own questions to port 53 have answers that die.
fn shut(cable: &Cable) -> String {
    format!(
        r#"version = 1
[nacl.shut]
inbound = [
  {{ rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "0.0.0.0/0" }},
]
outbound = [
  {{ rule = 100, action = "allow", protocol = "udp", ports = 53, destination = "0.0.0.0/0" }},
]
[interface.{NEAR}]
netns = "{}"
nacl = "shut"
"#,
        cable.here
    )
}

/// `nacld watch`, read line by line.
struct Watch {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watch {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.command(&[&["watch"], arguments].concat());
        // It does not outlive the thread that runs the test, however that ends.
        // SAFETY: a system call, which is all that may happen there.
        unsafe {
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// The next line with this in it.
    fn says(&self, what: &str) -> String {
        let mut before = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("never says {what:?}: {before:#?}"));
            if line.contains(what) {
                return line;
            }
            before.push(line);
        }
    }

    fn ends(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let error = std::io::read_to_string(self.child.stderr.take().unwrap()).unwrap();
        (status.code(), error)
    }
}

/// Sends packets that pass until they are told: from then on nothing is missed.
fn watched(watch: &Watch, cable: &Cable) {
    let start = std::time::Instant::now();
    loop {
        cable.inbound(OPEN, 1);
        if watch.lines.recv_timeout(Duration::from_millis(50)).is_ok() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "nobody is told");
    }
}

#[test]
fn broken_returns_are_found_told_and_mended() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&shut(&cable));
    let daemon = place.start(&[]);
    let watch = Watch::start(&place, &["--filter", "denied"]);
    // Backscatter: an answer to nothing, on its way out and on its way in.
    let (resolver, server) = netns::within(Some(&cable.there), || {
        (UdpSocket::bind((THERE, 53)).unwrap(), TcpListener::bind((THERE, 80)).unwrap())
    })
    .unwrap();
    drop(server);
    let listener = netns::within(Some(&cable.here), || TcpListener::bind((HERE, 443)).unwrap()).unwrap();
    let own = netns::within(Some(&cable.here), || UdpSocket::bind((HERE, 40000)).unwrap()).unwrap();
    // Until somebody watches.
    let start = std::time::Instant::now();
    while !watch.lines.try_iter().any(|line| line.contains("D deny  udp")) {
        assert!(start.elapsed() < PATIENCE, "nobody watches");
        resolver.send_to(b"backscatter", (HERE, 40001)).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    let api = Api::new(&place);
    assert_eq!(api.broken().unwrap(), []);
    // A client that hangs. Its system asks again after a second.
    let client = thread::spawn({
        let there = cable.there.clone();
        move || {
            netns::within(Some(&there), || {
                TcpStream::connect_timeout(&SocketAddr::from((HERE, 443)), Duration::from_secs(3)).map(drop)
            })
            .unwrap()
        }
    });
    // And a host whose questions nobody seems to answer.
    own.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    for _ in 0..50 {
        own.send_to(b"question", (THERE, 53)).unwrap();
        let mut buffer = [0; 64];
        resolver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let (_, from) = resolver.recv_from(&mut buffer).unwrap();
        resolver.send_to(b"answer", from).unwrap();
        let error = own.recv(&mut buffer).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        if api.broken().unwrap().iter().any(|broken| broken.protocol == 17) {
            break;
        }
    }
    assert_eq!(client.join().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
    let start = std::time::Instant::now();
    while api.broken().unwrap().len() < 2 {
        assert!(start.elapsed() < PATIENCE, "{:#?}", api.broken().unwrap());
        thread::sleep(Duration::from_millis(20));
    }
    let told = api.broken().unwrap();
    let of = |protocol| told.iter().find(|broken| broken.protocol == protocol).unwrap();
    let (tcp, udp) = (of(6), of(17));
    let rules = |broken: &nacl_daemon::observe::BrokenReturn| {
        (
            broken.began.name(),
            broken.request.decided_by.to_string(),
            broken.request.line,
            broken.reply.decided_by.to_string(),
        )
    };
    assert_eq!(rules(tcp), ("inbound", "inbound 100".into(), 4, "outbound *".into()));
    assert_eq!(rules(udp), ("outbound", "outbound 100".into(), 7, "inbound *".into()));
    assert_eq!((tcp.port, tcp.service), (Some(443), Some(HERE.into())));
    assert_eq!((udp.port, udp.service, udp.example.sport), (Some(53), None, Some(40000)));
    // In one sentence, everywhere.
    for said in [&tcp.says, &udp.says] {
        daemon.says(said);
        assert!(place.ask(&["status"]).contains(said.as_str()));
    }
    watch.says("BROKEN RETURN");
    watch.says("fix: add to ");
    let status = place.status();
    assert_eq!(status["broken"].as_array().unwrap().len(), 2);
    let count = |began: &str| {
        let counts = status["broken_counts"].as_array().unwrap();
        counts.iter().find(|count| count["began"] == began).unwrap()["returns"].clone()
    };
    assert_eq!((count("inbound"), count("outbound")), (1.into(), 1.into()));
    // What was only looked for was shown to nobody.
    assert!(watch.lines.try_iter().all(|line| !line.contains("A allow")));
    // Both fixes, pasted.
    let paste = |list: &str, broken: &nacl_daemon::observe::BrokenReturn, text: String| {
        let rule = &broken.fix.as_ref().unwrap()[0].rule;
        text.replace(&format!("{list} = [\n"), &format!("{list} = [\n  {rule},\n"))
    };
    let mended = paste("outbound", tcp, paste("inbound", udp, shut(&cable)));
    place.write(&mended);
    api.reload().unwrap();
    assert_eq!(api.broken().unwrap(), []);
    netns::within(Some(&cable.there), || {
        TcpStream::connect_timeout(&SocketAddr::from((HERE, 443)), Duration::from_secs(5)).unwrap();
    })
    .unwrap();
    own.send_to(b"question", (THERE, 53)).unwrap();
    let mut buffer = [0; 64];
    let (_, from) = resolver.recv_from(&mut buffer).unwrap();
    resolver.send_to(b"answer", from).unwrap();
    own.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(own.recv(&mut buffer).unwrap(), 6);
    drop(listener);
    // The daemon's end is no failure of who watches.
    daemon.ends_well(Signal::SIGTERM);
    let (code, error) = watch.ends();
    assert_eq!((code, error.as_str()), (Some(0), "nacld has ended\n"));
}

#[test]
fn verdicts_are_followed_filtered_and_ended() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&[]);
    let everything = Watch::start(&place, &[]);
    watched(&everything, &cable);
    assert_eq!((cable.inbound(CLOSED, 1), cable.inbound(OPEN, 1)), (0, 1));
    let denied = everything.says("D deny  udp");
    assert!(denied.contains(&format!("{HERE}:{CLOSED}")) && denied.contains("lab rule 50, line 4"), "{denied}");
    let allowed = everything.says("A allow udp");
    assert!(allowed.contains(&format!("{THERE}:")) && allowed.contains("lab rule 100, line 5"), "{allowed}");
    // Aligned: the arrow stands in one column.
    let column = |line: &str| line.chars().position(|sign| sign == '→');
    assert_eq!(column(&denied), column(&allowed));
    // Two of what is asked for, as the API has them, and no more.
    let filter = format!("denied and udp and dport {CLOSED} and remote {THERE}");
    let two = Watch::start(&place, &["--json", "-n", "2", "-i", NEAR, "--filter", &filter]);
    let start = std::time::Instant::now();
    let mut lines = Vec::new();
    while lines.len() < 2 {
        assert!(start.elapsed() < PATIENCE, "{lines:?}");
        cable.inbound(CLOSED, 1);
        cable.inbound(OPEN, 1);
        lines.extend(two.lines.try_iter());
    }
    assert_eq!(two.ends(), (Some(0), String::new()));
    for line in lines {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["schema"], &line["action"], &line["dport"]), (&1.into(), &"deny".into(), &CLOSED.into()));
    }
    // Ctrl-C is the ordinary end; so is a time, and a reader that goes away.
    kill(Pid::from_raw(everything.child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(everything.ends(), (Some(0), String::new()));
    let output = place.nacld(&["watch", "--for", "1s", "--filter", "proto 99"]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), ""), "{}", text(&output.stderr));
    let mut gone = place.command(&["watch"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(gone.stdout.take());
    let start = std::time::Instant::now();
    while gone.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "it goes on for nobody");
        cable.inbound(OPEN, 1);
    }
    assert_eq!(gone.wait().unwrap().code(), Some(0));
    // A mistake is shown where it is.
    let output = place.nacld(&["watch", "--filter", "denied and tpc"]);
    let error = text(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("did you mean `tcp`?"), "{error}");
    let output = place.nacld(&["watch", "-i", "lan9"]);
    assert!(fs::exists(place.socket()).unwrap());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    daemon.ends_well(Signal::SIGTERM);
}
