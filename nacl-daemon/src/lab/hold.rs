//! A lab to sit in: a background process that holds namespaces, services and the attached policy, and answers requests on a
//! unix socket; and the other end of that socket. State lies in one directory a lab, and goes with it.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::{
        fs::DirBuilderExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Lab, LabError,
    file::{self, Settings, Stage},
    net::{self, NetError, Owner, Style},
    show,
    wire::{self, Bench, Scrutiny, WireError},
};
use crate::{
    dataplane::{Attachment, Events},
    policy,
    resolve::Mode,
};

/// Where labs that are up keep their state, unless the environment says otherwise.
const ROOT: &str = "/run/nacld/labs";

/// Overrides [`ROOT`], so that tests do not meet labs somebody sits in.
const ROOT_VARIABLE: &str = "NACLD_LABS";

/// How long a lab may take to come up or go down.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that cannot be done with a lab one sits in.
#[derive(Debug, Error)]
pub enum HoldError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// On the wire.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Namespaces.
    #[error(transparent)]
    Net(#[from] NetError),
    /// It is up.
    #[error("lab {0} is up already; `nacld lab down {0}` takes it down")]
    Up(String),
    /// It is not up.
    #[error("lab {0} is not up; `nacld lab up {0}` builds it")]
    Down(String),
    /// Not for this user to know.
    #[error("only root may see which labs are up: run this as root, or with sudo")]
    Hidden,
    /// No such host.
    #[error("lab {lab} has no host {host:?}; it has {known}")]
    NoHost {
        /// Lab.
        lab: String,
        /// What was asked for.
        host: String,
        /// What there is.
        known: String,
    },
    /// The background process said so.
    #[error("lab {lab} did not come up: {message}")]
    Failed {
        /// Lab.
        lab: String,
        /// What it said.
        message: String,
    },
    /// A file, a socket, a process.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> HoldError {
    let what = what.into();
    move |source| HoldError::Io { what, source }
}

/// Asked of the background process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Request {
    /// Rules and hits.
    Status,
    /// Read the policy file again.
    Reload,
    /// Read the policy file again, then run the goal's probes.
    Verify,
    /// Take everything down.
    Down,
}

/// Answered by it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Answer {
    /// It was done, and of a verification: the goal is reached.
    pub ok: bool,
    /// For a person, styled.
    pub text: String,
    /// For a machine.
    #[serde(default)]
    pub report: serde_json::Value,
}

/// A lab that is up.
#[derive(Clone, Debug)]
pub struct Held {
    /// The lab.
    pub lab: Lab,
    /// Its process.
    pub owner: Owner,
    /// Its directory.
    folder: PathBuf,
}

/// What is written down about a lab that is up.
#[derive(Deserialize, Serialize)]
struct Note {
    /// Name or path it was loaded by.
    source: String,
    /// Process that holds it.
    owner: String,
}

fn root() -> PathBuf {
    env::var_os(ROOT_VARIABLE).map_or_else(|| ROOT.into(), PathBuf::from)
}

impl Held {
    /// The policy file, for editing.
    pub fn policy(&self) -> PathBuf {
        self.folder.join("policy.toml")
    }

    fn from_folder(folder: &Path) -> Option<Self> {
        let note: Note = serde_json::from_slice(&fs::read(folder.join("lab.json")).ok()?).ok()?;
        let owner = Owner::from_text(&note.owner).filter(|owner| owner.lives())?;
        Some(Self { lab: file::load(&note.source).ok()?, owner, folder: folder.into() })
    }

    /// The namespace of one of its hosts.
    ///
    /// # Errors
    /// There is no such host.
    pub fn namespace(&self, host: &str) -> Result<String, HoldError> {
        if host != "router" && !self.lab.hosts.contains_key(host) {
            let known = self.lab.hosts.keys().map(String::as_str).chain(["router"]).collect::<Vec<_>>().join(", ");
            return Err(HoldError::NoHost { lab: self.lab.name.clone(), host: host.into(), known });
        }
        Ok(net::name(&self.lab, self.owner, host))
    }

    fn request(&self, request: Request) -> Result<Answer, HoldError> {
        let what = || format!("asking lab {}", self.lab.name);
        let mut stream = UnixStream::connect(self.folder.join("socket")).map_err(failed(what()))?;
        let line = serde_json::to_string(&request).map_err(io::Error::from).map_err(failed(what()))?;
        stream.write_all(format!("{line}\n").as_bytes()).map_err(failed(what()))?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).map_err(failed(what()))?;
        serde_json::from_str(&answer).map_err(io::Error::from).map_err(failed(what()))
    }

    /// Rules and hits.
    ///
    /// # Errors
    /// Its process does not answer.
    pub fn status(&self) -> Result<Answer, HoldError> {
        self.request(Request::Status)
    }

    /// Has the policy file read again. An invalid one changes nothing, and the answer says what is wrong with it.
    ///
    /// # Errors
    /// Its process does not answer.
    pub fn reload(&self) -> Result<Answer, HoldError> {
        self.request(Request::Reload)
    }

    /// Has the policy file read again, and tried against the goal.
    ///
    /// # Errors
    /// Its process does not answer.
    pub fn verify(&self) -> Result<Answer, HoldError> {
        self.request(Request::Verify)
    }

    /// Takes it down and waits until it is gone.
    ///
    /// # Errors
    /// It does not go.
    pub fn down(&self) -> Result<(), HoldError> {
        if self.request(Request::Down).is_err() {
            let _ = kill(Pid::from_raw(self.owner.pid), Signal::SIGTERM);
        }
        let end = Instant::now() + PATIENCE;
        while self.owner.lives() {
            if Instant::now() > end {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(HoldError::Io { what: format!("waiting for process {}", self.owner.pid), source });
            }
            thread::sleep(Duration::from_millis(20));
        }
        sweep();
        Ok(())
    }

    /// The next hint, its number from 1, and how many there are.
    ///
    /// # Errors
    /// The count cannot be kept.
    pub fn hint(&self) -> Result<(usize, &str), HoldError> {
        let path = self.folder.join("hints");
        let given = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0_usize);
        let number = (given + 1).min(self.lab.hints.len());
        fs::write(&path, number.to_string()).map_err(failed(path.display().to_string()))?;
        Ok((number, &self.lab.hints[number - 1]))
    }

    /// A command inside one of its hosts; without one, a shell that says where it is.
    ///
    /// # Errors
    /// There is no such host.
    pub fn command(&self, host: &str, command: &[String]) -> Result<Command, HoldError> {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.namespace(host)?]);
        for (name, host) in &self.lab.hosts {
            // So that `curl $SERVER:443` needs no addresses learned by heart.
            let name = name.to_uppercase().replace('-', "_");
            for network in &host.addresses {
                let suffix = if network.addr().is_ipv4() { "" } else { "6" };
                inside.env(format!("{name}{suffix}"), network.addr().to_string());
            }
        }
        if !command.is_empty() {
            inside.args(command);
            return Ok(inside);
        }
        let prompt = format!("[{} {host}] \\w # ", self.lab.name);
        let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
        if shell.ends_with("/bash") {
            // A shell's own start file sets the prompt; ours is read after it.
            let file = self.folder.join(format!("bashrc-{host}"));
            let text = format!("[ -f ~/.bashrc ] && . ~/.bashrc\nPS1='{prompt}'\nunset PROMPT_COMMAND\n");
            fs::write(&file, text).map_err(failed(file.display().to_string()))?;
            inside.arg(shell).arg("--rcfile").arg(file).arg("-i");
        } else {
            inside.env("PS1", prompt.replace("\\w ", "")).arg(shell);
        }
        Ok(inside)
    }
}

/// Every lab that is up.
pub fn held() -> Vec<Held> {
    let Ok(entries) = fs::read_dir(root()) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    folders.iter().filter_map(|folder| Held::from_folder(folder)).collect()
}

/// The lab of this name, which must be up. The name is that of the lab, or the file it was loaded from.
///
/// # Errors
/// It is not up.
pub fn find(name: &str) -> Result<Held, HoldError> {
    let found = held().into_iter().find(|held| held.lab.name.eq_ignore_ascii_case(name));
    if let Some(held) = found {
        return Ok(held);
    }
    let lab = file::load(name)?;
    visible()?;
    Held::from_folder(&folder(&lab)).ok_or(HoldError::Down(lab.name))
}

/// Fails where labs may be up that this user cannot see: their directory is root's.
///
/// # Errors
/// It is closed to this user.
pub fn visible() -> Result<(), HoldError> {
    match fs::read_dir(root()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(HoldError::Hidden),
        _ => Ok(()),
    }
}

fn folder(lab: &Lab) -> PathBuf {
    root().join(lab.name.to_lowercase())
}

/// Removes what crashes left: namespaces and directories of labs whose process is gone. Returns what was removed.
pub fn sweep() -> Vec<String> {
    let mut removed = net::sweep();
    let Ok(entries) = fs::read_dir(root()) else { return removed };
    for folder in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let note = fs::read(folder.join("lab.json")).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
        let Some(owner) = note.and_then(|note| Owner::from_text(&note.owner)) else { continue };
        if !owner.lives() && fs::remove_dir_all(&folder).is_ok() {
            removed.push(folder.display().to_string());
        }
    }
    removed
}

/// Brings a lab up: starts the background process and waits until it is ready.
///
/// # Errors
/// It is up already, or does not come up; then nothing stays.
pub fn up(source: &str) -> Result<Held, HoldError> {
    let lab = file::load(source)?;
    wire::possible(&lab)?;
    let folder = folder(&lab);
    if Held::from_folder(&folder).is_some() {
        return Err(HoldError::Up(lab.name));
    }
    // A path must mean the same to a process that stands elsewhere.
    let source = fs::canonicalize(source).map_or_else(|_| source.to_string(), |path| path.display().to_string());
    // Only the lab's own folder is closed: /run/nacld may also hold the daemon's socket, which a group may use.
    let made = folder.parent().map_or(Ok(()), fs::create_dir_all);
    let made = made.and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder));
    made.map_err(failed(folder.display().to_string()))?;
    let result = start(&lab, &source, &folder);
    if result.is_err() {
        let _ = fs::remove_dir_all(&folder);
        sweep();
    }
    result
}

fn start(lab: &Lab, source: &str, folder: &Path) -> Result<Held, HoldError> {
    let file = folder.join("policy.toml");
    let name = &lab.name;
    let text = format!(
        "# Lab {name}: {}\n# Task: {}\n#\n# `nacld lab reload {name}` puts this file in force, `nacld lab verify {name}` tries it.\n\n{}",
        lab.title,
        lab.task.replace('\n', "\n# "),
        lab.policy.text
    );
    fs::write(&file, text).map_err(failed(file.display().to_string()))?;
    let log = folder.join("log");
    let log = fs::File::create(&log).map_err(failed(log.display().to_string()))?;
    let program = env::current_exe().map_err(failed("finding this program"))?;
    let mut child = Command::new(program)
        .args(["lab", "hold", source])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed("starting the background process"))?;
    let mut message = String::new();
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        while message != "ready\n" && output.read_line(&mut message).map_err(failed("waiting for the lab"))? > 0 {}
    }
    if message != "ready\n" {
        let _ = child.wait();
        let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
        let message = format!("{message}{log}").trim().to_string();
        return Err(HoldError::Failed { lab: name.clone(), message });
    }
    Held::from_folder(folder).ok_or_else(|| HoldError::Down(name.clone()))
}

/// The background process itself. Returns when the lab was taken down. Prints `ready` on standard output once it is up.
///
/// # Errors
/// The lab cannot be brought up.
pub fn hold(source: &str) -> Result<(), HoldError> {
    // The terminal it was started from may go; the lab stays.
    setsid().map_err(io::Error::from).map_err(failed("leaving the terminal"))?;
    let lab = file::load(source)?;
    let folder = folder(&lab);
    let gone = folder.clone();
    net::clean_up_on_signals(move || {
        let _ = fs::remove_dir_all(gone);
    })
    .map_err(failed("watching for signals"))?;
    let note = Note { source: source.into(), owner: Owner::this()?.text() };
    let note = serde_json::to_vec(&note).map_err(io::Error::from).map_err(failed("writing lab.json"))?;
    fs::write(folder.join("lab.json"), note).map_err(failed("writing lab.json"))?;
    let mut bench = Bench::build(&lab, Style::Lived)?;
    let mut holder = Holder { lab: &lab, folder: &folder };
    bench.install(&lab.compile(&lab.policy, Settings::default(), None)?, Events::All)?;
    let listener = UnixListener::bind(folder.join("socket")).map_err(failed("opening the socket"))?;
    println!("ready");
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // Somebody who asks and goes away is answered in vain.
        if let Ok(Request::Down) = holder.serve(&mut bench, &stream) {
            break;
        }
    }
    drop(bench);
    let _ = fs::remove_dir_all(&folder);
    Ok(())
}

struct Holder<'a> {
    lab: &'a Lab,
    folder: &'a Path,
}

impl<'a> Holder<'a> {
    fn serve(&mut self, bench: &mut Bench<'a>, mut stream: &UnixStream) -> io::Result<Request> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let request = serde_json::from_str(&line)?;
        let answer = match request {
            Request::Status => self.status(bench),
            Request::Reload => self.reload(bench),
            Request::Verify => self.verify(bench),
            Request::Down => Ok(Answer { ok: true, text: String::new(), report: serde_json::Value::Null }),
        };
        let answer = answer.unwrap_or_else(|error| Answer {
            ok: false,
            text: format!("{error}\n"),
            report: serde_json::json!({ "error": error.to_string() }),
        });
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        stream.write_all(text.as_bytes())?;
        Ok(request)
    }

    fn status(&self, bench: &mut Bench<'a>) -> Result<Answer, HoldError> {
        let counters = bench.counters()?;
        let Some(policy) = bench.policy() else { return Err(HoldError::Down(self.lab.name.clone())) };
        let (mut text, mut hooks) = (String::new(), Vec::new());
        for (hook, attachment) in bench.hooks() {
            let (enforced, counters) = (policy.at(hook), counters.get(hook).cloned().unwrap_or_default());
            if self.lab.hooks.len() > 1 {
                let _ = writeln!(text, "{}{hook}{:#}", show::BOLD, show::BOLD);
            }
            text.push_str(&show::rules(enforced, &counters));
            hooks.push(serde_json::json!({
                "host": hook,
                "attached": attachment.hooks().to_string(),
                "mode": enforced.interface.mode.name(),
                "rules": show::rule_hits(enforced, &counters),
            }));
        }
        Ok(Answer { ok: true, text, report: serde_json::json!({ "hooks": hooks }) })
    }

    fn reload(&self, bench: &mut Bench<'a>) -> Result<Answer, HoldError> {
        let path = self.folder.join("policy.toml");
        let file = path.display().to_string();
        let bytes = fs::read(&path).map_err(failed(file.clone()))?;
        let text = match policy::decode(bytes) {
            Ok(text) => text,
            Err(error) => {
                let (text, diagnostic) = *error;
                return Ok(Self::refused(&show::diagnostics(&file, &text, &[diagnostic])));
            }
        };
        match self.lab.compile_text(&file, &text, Settings::default(), bench.policy()) {
            Ok(policy) => {
                bench.install(&policy, Events::All)?;
                let epoch = bench.hooks().values().map(Attachment::epoch).max().unwrap_or_default();
                let text = format!("{}✓{:#} {file} is in force (epoch {epoch})\n", show::GOOD, show::GOOD);
                Ok(Answer { ok: true, text, report: serde_json::json!({ "epoch": epoch }) })
            }
            Err(LabError::Policy { diagnostics, .. }) => {
                Ok(Self::refused(&show::diagnostics(&file, &text, &diagnostics)))
            }
            Err(error) => Ok(Self::refused(&format!("{error}\n"))),
        }
    }

    fn refused(why: &str) -> Answer {
        let text =
            format!("{why}{}✗{:#} nothing was changed: the policy before it stays in force\n", show::BAD, show::BAD);
        Answer { ok: false, text, report: serde_json::json!({ "error": why }) }
    }

    fn verify(&self, bench: &mut Bench<'a>) -> Result<Answer, HoldError> {
        let reloaded = self.reload(bench)?;
        if !reloaded.ok {
            return Ok(reloaded);
        }
        bench.refresh()?;
        let Some(policy) = bench.policy().cloned() else { return Err(HoldError::Down(self.lab.name.clone())) };
        // The policy file says whether its lists remember, and whoever edits it may make them.
        let stateful = policy.hooks.values().any(|enforced| enforced.interface.mode == Mode::Stateful);
        let mode = if stateful { Mode::Stateful } else { Mode::Stateless };
        let stage = Stage { name: &self.lab.goal.says, probes: &self.lab.goal.probes, policy, during: None };
        let report = bench.step(&stage, mode, None, Scrutiny::Probes)?;
        let ok = report.ok();
        let text = show::verified(self.lab, &report);
        let report = serde_json::to_value(&report).unwrap_or_default();
        Ok(Answer { ok, text, report })
    }
}
