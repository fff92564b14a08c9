//! `nacld top` in a real terminal, beside a real daemon on real interfaces: what the screen shows, what its keys do, and that the
//! terminal is given back. The terminal is tmux's, which tells what stands on it. What the view does with each size and
//! value is shown by `top.rs`.

mod support;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sys::{
    prctl::set_pdeathsig,
    signal::{Signal, kill},
};
use support::{
    place::{PATIENCE, Place, text},
    policies::{CLOSED, OPEN, lab, near},
    veth::Cable,
};

/// A terminal that something runs in.
struct Terminal {
    server: Child,
    socket: PathBuf,
}

impl Terminal {
    /// Runs a line of the shell. Its terminal lives on when it has ended.
    fn start(place: &Place, (columns, rows): (u16, u16), line: &str) -> Self {
        let socket = place.directory.path().join("tmux");
        let mut command = Command::new("tmux");
        command
            .args(["-u", "-f", "/dev/null", "-D", "-S"])
            .arg(&socket)
            .env("LC_ALL", "C.UTF-8")
            .env("SHELL", "/bin/sh");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // It does not outlive the thread that runs the test, however that ends.
        // SAFETY: a system call, which is all that may happen there.
        unsafe {
            command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?));
        }
        let server =
            command.spawn().unwrap_or_else(|error| panic!("tmux is needed (`cargo xtask setup` installs it): {error}"));
        let terminal = Self { server, socket };
        let start = Instant::now();
        while !terminal.socket.exists() {
            assert!(start.elapsed() < PATIENCE, "tmux does not listen");
            sleep(Duration::from_millis(5));
        }
        let size = [columns, rows].map(|size| size.to_string());
        let program = format!("{line}; printf 'ended %s\\n' $?; stty -a; exec sleep 600");
        terminal.tmux(&["new-session", "-d", "-x", &size[0], "-y", &size[1], &program]);
        terminal
    }

    /// Runs `nacld top` after a line of the shell's own.
    fn top(place: &Place, size: (u16, u16), options: &str) -> Self {
        let top = place.command(&[]);
        let program = top.get_program().to_str().expect("a path of letters");
        let socket = place.socket();
        let line = format!(
            "cd /; printf 'before\\n'; NACLD_SOCKET={} {program} top --interval 200ms {options}",
            socket.display()
        );
        Self::start(place, size, &line)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(arguments).output().expect("tmux runs");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is as it should be.
    fn is(&self, what: &str, right: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if right(&screen) {
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "not {what}:\n{screen}");
            sleep(Duration::from_millis(20));
        }
    }

    fn shows(&self, what: &str) -> String {
        self.is(what, |screen| screen.contains(what))
    }

    /// The line of the shell has ended by this, and the terminal is as it was before.
    fn is_given_back(&self, status: &str) {
        let screen = self.shows(&format!("ended {status}"));
        assert!(screen.contains("before"), "the screen before it is there again:\n{screen}");
        let state = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}"]);
        assert_eq!(state.trim(), "0 1 0", "main screen, a cursor, no mouse");
        let set = self.shows("isig").split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        for flag in [" icanon ", " echo ", "isig "] {
            assert!(set.contains(flag), "{flag}: {set}");
        }
    }

    /// Process id of `nacld top`.
    fn pid(&self) -> i32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.trim())).expect("its children");
        children.trim().parse().expect("one child")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Words of the line of a rule on the screen.
fn rule(screen: &str, number: &str) -> Vec<String> {
    let line = screen.lines().find(|line| line.split_whitespace().take(2).eq(["in", number]));
    line.map(|line| line.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

#[test]
fn rules_verdicts_and_modes() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&[]);
    let terminal = Terminal::top(&place, (80, 24), "");
    let screen = terminal.shows("near  stateless  layers both  enforcing");
    for part in ["1 Rules", "acl lab", "q quit"] {
        assert!(screen.contains(part), "{part}:\n{screen}");
    }
    // Hits move while one looks.
    assert_eq!((cable.inbound(CLOSED, 3), cable.inbound(OPEN, 2)), (0, 2));
    let screen = terminal.is("three on rule 50", |screen| rule(screen, "50").contains(&"3".to_owned()));
    assert_eq!(rule(&screen, "50")[2], "deny");
    assert_eq!(rule(&screen, "100")[2], "allow");
    assert!(screen.contains("denied 3 "), "{screen}");
    // A filter, and none again.
    terminal.press(&["/", "deny", "Enter"]);
    let screen = terminal.is("only what denies", |screen| screen.contains("/deny") && rule(screen, "100").is_empty());
    assert!(!rule(&screen, "50").is_empty(), "{screen}");
    terminal.press(&["Escape"]);
    terminal.is("everything", |screen| !rule(screen, "100").is_empty());
    // A verdict, as it happens, and why.
    terminal.press(&["2"]);
    terminal.shows("2 Verdicts");
    cable.inbound(CLOSED, 1);
    let screen = terminal.shows("lab inbound 50");
    assert!(screen.contains(&format!("10.77.0.1:{CLOSED}")), "{screen}");
    terminal.press(&["e"]);
    let screen = terminal.shows("Explained");
    assert!(screen.contains("request") && screen.contains("50"), "{screen}");
    terminal.press(&["Escape"]);
    terminal.is("closed", |screen| !screen.contains("Explained"));
    // The mode, after a question; any other answer than yes changes nothing.
    let mode = || place.status()["interfaces"][0]["mode"].as_str().expect("a mode").to_owned();
    terminal.press(&["m"]);
    terminal.shows("Make near stateful?");
    terminal.press(&["n"]);
    terminal.is("closed", |screen| !screen.contains("Make near"));
    assert_eq!(mode(), "stateless");
    terminal.press(&["m"]);
    terminal.shows("Make near stateful?");
    terminal.press(&["y"]);
    terminal.shows("stateful*");
    assert_eq!(mode(), "stateful");
    // What is remembered.
    cable.inbound(OPEN, 1);
    terminal.press(&["3"]);
    terminal.shows(&format!("10.77.0.1:{OPEN}"));
    // Smaller, and back.
    terminal.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    let screen = terminal.is("small", |screen| screen.lines().count() <= 10 && screen.contains("3 Connections"));
    assert!(screen.contains("near  stateful*"), "{screen}");
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.shows("acl lab");
    terminal.press(&["q"]);
    terminal.is_given_back("0");
    drop(terminal);
    daemon.ends_well(Signal::SIGTERM);
}

/// The shell must be one that has jobs, as a person's.
#[test]
fn the_shell_has_the_terminal_while_it_is_stopped() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    let daemon = place.start(&[]);
    let terminal = Terminal::start(&place, (80, 24), "PS1='shell> ' bash --norc --noprofile -i");
    let line = |line: &str| {
        terminal.press(&["-l", line]);
        terminal.press(&["Enter"]);
    };
    terminal.shows("shell>");
    let top = place.command(&[]);
    let program = top.get_program().to_str().expect("a path of letters");
    line(&format!("clear; NACLD_SOCKET={} {program} top --interval 200ms", place.socket().display()));
    terminal.shows("near  stateless");
    let state = || terminal.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
    for hits in ["1", "2"] {
        assert_eq!(state().trim(), "1 0", "it has the screen");
        terminal.press(&["C-z"]);
        let stopped =
            |screen: &str| screen.contains("Stopped") && screen.contains("shell>") && !screen.contains("1 Rules");
        terminal.is("stopped", stopped);
        assert_eq!(state().trim(), "0 1", "main screen, a cursor");
        // Lines are edited and shown again; in a window of another size.
        line("clear; stty -a");
        terminal.is("as before", |screen| screen.contains("isig icanon") && screen.contains(" echo echoe"));
        terminal.tmux(&["resize-window", "-x", if hits == "1" { "90" } else { "80" }, "-y", "24"]);
        cable.inbound(CLOSED, 1);
        line("fg");
        terminal.is("there again", |screen| screen.contains("near  stateless") && screen.contains("q quit"));
        terminal.is("hits", |screen| rule(screen, "50").contains(&hits.to_owned()));
    }
    terminal.press(&["q"]);
    terminal.is("the shell", |screen| screen.contains("shell>") && !screen.contains("1 Rules"));
    line("exit");
    terminal.shows("ended 0");
    drop(terminal);
    daemon.ends_well(Signal::SIGTERM);
}

#[test]
fn daemons_come_and_go_and_the_terminal_is_given_back() {
    let cable = Cable::new();
    cable.acquaint();
    let place = Place::new(&lab(&near(&cable)));
    // Nobody is there yet.
    let terminal = Terminal::top(&place, (80, 24), "");
    terminal.shows("no nacld is running on");
    let daemon = place.start(&[]);
    terminal.shows("near  stateless");
    daemon.ends_well(Signal::SIGTERM);
    let screen = terminal.shows("NO DAEMON");
    assert!(screen.contains("near  stateless"), "what it said last stays:\n{screen}");
    let daemon = place.start(&["--confirm", "10m"]);
    terminal.is("there again", |screen| !screen.contains("NO DAEMON"));
    terminal.shows("NOT CONFIRMED: undone in");
    terminal.press(&["2"]);
    cable.inbound(CLOSED, 1);
    terminal.shows("lab inbound 50");
    kill(nix::unistd::Pid::from_raw(terminal.pid()), Signal::SIGTERM).expect("it is there");
    terminal.is_given_back("0");
    drop(terminal);
    // Without a terminal: one frame, and where that comes from.
    cable.inbound(OPEN, 2);
    let output = place.nacld(&["top", "--interval", "100ms"]);
    let frame = text(&output.stdout);
    assert!(output.status.success() && frame.contains("1 Rules") && !frame.contains('\x1b'), "{frame}");
    assert_eq!(rule(&frame, "50")[2], "deny", "{frame}");
    assert!(text(&output.stderr).starts_with("hint: standard output is no terminal"), "{}", text(&output.stderr));
    let output = place.nacld(&["top", "--once", "--interval", "100ms"]);
    assert_eq!(text(&output.stderr), "");
    place.ask(&["confirm"]);
    daemon.ends_well(Signal::SIGTERM);
}
