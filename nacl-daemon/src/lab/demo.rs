//! The quiz, told: it asks, shows with real packets what happens and why, mends it and shows that too. Without namespaces
//! or kernel programs the same packets are judged on paper, and the story says so. Everything told is looked at: where the
//! network does not do what the lab says, the demo fails.

use std::{env, fmt::Write as _, io, path::PathBuf, time::Duration};

use anstyle::Style;
use nacl_common::{Action, Direction};
use thiserror::Error;

use super::{
    Lab, LabError,
    ask::Noticed,
    diagnose,
    expect::Decision,
    file::{self, Policy, Probe, Settings, SourcePorts, Stage},
    net::Style as Wiring,
    outcome::{Observation, sentence},
    paper::{self, Engine, Judge},
    show::{self, BAD, BOLD, DIM, GOOD, NOTE, WARN, WIDTH, rules, short, wrap},
    wire::{Bench, Happening, WireError},
};
use crate::{
    analyze::{self, Flow, NewRule},
    dataplane::{self, Counters, Events},
    observe::BrokenReturn,
    report::rule::{endpoint, rule_toml},
    resolve::{Mode, Rule},
};

/// Who the story is told to.
pub trait Audience {
    /// Shows text, now.
    ///
    /// # Errors
    /// It cannot be shown.
    fn show(&mut self, text: &str) -> io::Result<()>;

    /// Waits until somebody wants to go on, and returns what they typed; nothing where nobody can type.
    ///
    /// # Errors
    /// It cannot be read.
    fn wait(&mut self, prompt: &str) -> io::Result<Option<String>>;
}

/// A story that came to no end.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The lab.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The network.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The terminal.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How long a client is shown hanging.
const HANG: Duration = Duration::from_millis(2500);

/// How long one is shown hanging when everybody knows by now.
const SHORT_HANG: Duration = Duration::from_millis(900);

/// The quiz is about a network ACL as AWS has it.
const STATELESS: Settings = Settings::mode(Mode::Stateless);

/// A port for clients on paper: one of Linux's.
const PAPER_PORT: u16 = 39850;

/// Tells the story with packets, or on paper where that cannot be. Returns what did not go as the lab says; nothing: all
/// of it did.
///
/// # Errors
/// See [`DemoError`].
pub fn run(audience: &mut dyn Audience) -> Result<Vec<String>, DemoError> {
    tell(audience, dataplane::missing())
}

/// Tells it with packets if nothing is lacking for that, else on paper.
///
/// # Errors
/// See [`DemoError`].
pub fn tell(audience: &mut dyn Audience, mut lacking: Vec<String>) -> Result<Vec<String>, DemoError> {
    let lab = file::load("l11")?;
    let policy = lab.compile(&lab.policy, STATELESS, None)?;
    let bench = if lacking.is_empty() {
        let built = Bench::build(&lab, Wiring::Measured).and_then(|mut bench| {
            bench.install(&policy, Events::All)?;
            Ok(bench)
        });
        built.map_err(|error| lacking.push(error.to_string())).ok()
    } else {
        None
    };
    let mut story = Story {
        lab: &lab,
        bench,
        policy,
        tally: Counters::default(),
        audience,
        broken: Vec::new(),
        surprises: Vec::new(),
    };
    story.tell(&lacking)?;
    Ok(story.surprises)
}

struct Story<'a, 'b> {
    lab: &'a Lab,
    bench: Option<Bench<'a>>,
    policy: Policy,
    /// On paper: what the counters would have counted.
    tally: Counters,
    audience: &'b mut dyn Audience,
    /// Whose replies have died so far.
    broken: Vec<BrokenReturn>,
    surprises: Vec<String>,
}

impl<'a> Story<'a, '_> {
    fn tell(&mut self, lacking: &[String]) -> Result<(), DemoError> {
        let lab = self.lab;
        self.opening(lacking)?;
        let guess = self.audience.wait("Your answer, such as a, ab or none, then Enter: ")?;
        self.reply_to(guess.as_deref())?;

        let quiz = &lab.steps[0].probes;
        self.act("1", "(a) A browser asks for HTTPS")?;
        self.scene(&quiz[0], HANG)?;
        self.text("The request got in and was answered. The answer left the server, and died outside it. The browser hears nothing: it hangs.")?;
        self.act("2", "(b) SSH, and (c) HTTP from port 24000")?;
        self.scene(&quiz[1], SHORT_HANG)?;
        self.scene(&quiz[2], SHORT_HANG)?;
        self.text(
            "SSH never reached the server. HTTP did, and its answer died like that of HTTPS. So: none of the three.",
        )?;

        self.act("3", "Which rule did it? The counters know")?;
        self.tables()?;
        self.text(
            "No numbered outbound rule matched the answers to (a) and (c): each was counted by *, which denies the rest. In the file:",
        )?;
        self.source()?;
        self.text("A daemon finds that out by itself, from the packets. In `nacld watch`, in its status and in its log it says:")?;
        self.diagnosis()?;

        self.act("4", "The proof: a client whose own port is 443")?;
        self.scene(&lab.steps[1].probes[0], HANG)?;
        self.text("Outbound 443 let this answer out. It was never about the server's port: it looks at the port a packet goes to, which is the client's.")?;

        self.act("5", "The fix")?;
        let fix = self.fix()?;
        self.audience.wait("Enter puts it in force, while everything runs. ")?;
        let solution = lab.compile(&lab.solution, STATELESS, Some(&self.policy))?;
        self.install(solution)?;
        self.audience.show(&format!("   {GOOD}✓{GOOD:#} {fix} is in force\n\n"))?;
        self.scene(&lab.goal.probes[0], HANG)?;
        self.tables()?;

        self.act("6", "The fix that breaks something else")?;
        self.text("Most people change rule 200 from 443 to 1024-65535 instead. HTTPS works then, too. But the server has calls of its own to make, to an API on port 443:")?;
        let trap = &lab.steps[2];
        let broken = trap.change.policy.as_ref().unwrap_or(&lab.policy);
        let broken = lab.compile(broken, STATELESS, Some(&self.policy))?;
        self.install(broken)?;
        self.scene(&trap.probes[3], SHORT_HANG)?;
        self.text("It does not even leave. Add a rule, do not replace one. With the added rule:")?;
        let solution = lab.compile(&lab.solution, STATELESS, Some(&self.policy))?;
        self.install(solution)?;
        self.scene(&lab.goal.probes[2], HANG)?;
        self.closing(guess.as_deref())
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.audience.show(&format!("{}\n", wrap(text, "   ", Style::new())))
    }

    fn act(&mut self, number: &str, title: &str) -> io::Result<()> {
        self.audience.show(&format!(" {NOTE}{BOLD}{number}  {title}{BOLD:#}{NOTE:#}\n\n"))
    }

    fn opening(&mut self, lacking: &[String]) -> io::Result<()> {
        let mut out = String::new();
        let _ = writeln!(out, "\n {BOLD}A network ACL, three clients, one question{BOLD:#}\n");
        if self.bench.is_some() {
            let hooks = self
                .bench
                .as_ref()
                .and_then(|bench| bench.hooks().values().next())
                .map(|attachment| attachment.hooks().to_string());
            let hooks = hooks.unwrap_or_default();
            out.push_str(&wrap(
                &format!(
                    "Everything you will see is real: Linux network namespaces, TCP sockets, and eBPF programs in the kernel ({hooks}). Nothing leaves this machine."
                ),
                "   ",
                DIM,
            ));
        } else {
            out.push_str(&wrap(
                "On paper: the packets below are judged by the same engine that runs in the kernel, but none is sent. To see real ones, this is missing:",
                "   ",
                WARN,
            ));
            for what in lacking {
                out.push_str(&wrap(&format!("- {what}"), "   ", WARN));
            }
            let _ = writeln!(out, "   {WARN}`cargo xtask demo` builds what is needed and runs this as root.{WARN:#}");
        }
        let address = |host: &str| self.lab.host(host).addresses[0].addr().to_string();
        let (client, server, api) = (address("client"), address("server"), address("api"));
        let _ = writeln!(
            out,
            "
     {BOLD}client{BOLD:#}
     {client:<15} ───┐                                 {BOLD}server{BOLD:#}
                        ├─── router ───▐ {WARN}network ACL{WARN:#} ▌─── {server}
     {BOLD}api{BOLD:#}                │                {DIM}both ways,{DIM:#}       serves 443, 22, 80
     {api:<15} ───┘                {DIM}no memory{DIM:#}
"
        );
        out.push_str(&rules(self.policy.at(&self.lab.hooks[0]), &Counters::default()));
        let _ = writeln!(out);
        out.push_str(&wrap(&self.lab.question, "   ", BOLD));
        let _ = writeln!(out);
        self.audience.show(&out)
    }

    fn reply_to(&mut self, guess: Option<&str>) -> io::Result<()> {
        match guess {
            Some(guess) if !guess.is_empty() => {
                self.audience.show(&format!("   {DIM}You say {guess:?}. Let us see.{DIM:#}\n\n"))
            }
            _ => self.audience.show(&format!("   {DIM}Let us see.{DIM:#}\n\n")),
        }
    }

    /// From now on this policy is in force.
    fn install(&mut self, policy: Policy) -> Result<(), DemoError> {
        if let Some(bench) = &mut self.bench {
            bench.install(&policy, Events::All)?;
        }
        self.policy = policy;
        Ok(())
    }

    /// Runs one probe before the audience, and holds it against what the lab says.
    fn scene(&mut self, probe: &'a Probe, patience: Duration) -> Result<(), DemoError> {
        let mut port = PAPER_PORT;
        let (observation, problems) = match self.bench.take() {
            Some(mut bench) => {
                let mut shown = Ok(());
                let watched = bench.watch(probe, patience, |happening| {
                    if let Happening::Packet { host, sight, .. } = &happening
                        && **host == probe.from
                        && sight.sent
                    {
                        port = sight.packet.sport;
                    }
                    if shown.is_ok() {
                        shown = self.audience.show(&happens(probe, patience, happening));
                    }
                });
                self.bench = Some(bench);
                shown?;
                watched?
            }
            None => (self.on_paper(probe)?, Vec::new()),
        };
        let expected = probe.expected(Mode::Stateless).observation();
        if observation != expected {
            let (expected, seen) = (sentence(&expected), sentence(&observation));
            self.surprises.push(format!("{}: expected {expected}, saw {seen}", probe.name));
        }
        self.surprises.extend(problems);
        self.broken.extend(diagnose::broken_of(self.lab, &self.policy, probe, port, &observation));
        self.audience.show("\n")?;
        Ok(())
    }

    /// The packets of a probe, judged here.
    fn on_paper(&mut self, probe: &Probe) -> Result<Observation, DemoError> {
        let port = match &probe.source_ports {
            SourcePorts::These(ports) => ports[0],
            _ => PAPER_PORT,
        };
        let mut engine = Engine::default();
        let stage = Stage { name: "", probes: &[], policy: self.policy.clone(), during: None };
        let Ok(()) = engine.install(&stage.policy);
        let flow = self.flow(probe, port);
        let (hook, direction) = self.crossing(probe);
        let mut out = String::new();
        let legs = [
            (direction, flow.request().ok(), &probe.from, "SYN"),
            (direction.reverse(), flow.reply().ok().flatten(), &probe.to, "SYN/ACK"),
        ];
        let mut died = false;
        for (direction, packet, host, kind) in legs {
            let Some(packet) = packet else { continue };
            let Ok(judged) = engine.judge(hook, direction, &packet);
            self.tally.slots.entry(judged.slot).or_default().packets += 1;
            let by = Decision::of(&self.policy.at(hook).compiled.slots, direction, &judged);
            let (from, to) = (endpoint(&packet, packet.src, packet.sport), endpoint(&packet, packet.dst, packet.dport));
            out.push_str(&line("", host, &format!("sends     {BOLD}{kind:<8}{BOLD:#} {from} → {to}")));
            let pass = judged.action == Action::Allow;
            out.push_str(&verdict(&by, pass));
            if !pass {
                died = true;
                break;
            }
        }
        if died {
            out.push_str(&line("", &probe.from, &format!("{BAD}would hang{BAD:#}")));
        } else {
            out.push_str(&line("", &probe.from, &format!("{GOOD}would have its answer{GOOD:#}")));
        }
        self.audience.show(&out)?;
        let Ok(seen) = paper::follow(self.lab, probe, [port, 0], &stage, &mut engine);
        Ok(seen)
    }

    /// The packets of a probe.
    fn flow(&self, probe: &Probe, port: u16) -> Flow {
        paper::flow(self.lab, probe, self.lab.connections(probe)[0], port)
    }

    /// The quiz has one hook, and every probe crosses it.
    fn crossing(&self, probe: &Probe) -> (&'a str, Direction) {
        let hook = self.lab.hooks[0].as_str();
        (hook, if probe.to == hook { Direction::Inbound } else { Direction::Outbound })
    }

    fn tables(&mut self) -> Result<(), DemoError> {
        let counters = match &self.bench {
            Some(bench) => bench.counters()?.remove(&self.lab.hooks[0]).unwrap_or_default(),
            None => self.tally.clone(),
        };
        self.audience.show(&format!("{}\n", rules(self.policy.at(&self.lab.hooks[0]), &counters)))?;
        Ok(())
    }

    /// The outbound list as it stands in the lab's file.
    fn source(&mut self) -> io::Result<()> {
        // Columns before the text of a line.
        const BEFORE: usize = 10;
        let rules = &self.policy.at(&self.lab.hooks[0]).interface.nacl.outbound;
        let (Some(first), Some(last)) = (rules.first(), rules.last()) else { return Ok(()) };
        let (file, text) = (&self.policy.resolved.file, &self.policy.resolved.text);
        let mut out = format!("     {NOTE}-->{NOTE:#} {file}:{}\n", first.line);
        for number in first.line - 1..=last.line + 1 {
            let source = text.lines().nth(number - 1).unwrap_or_default();
            // It is there to be looked at, and marks stand below it.
            let mut shown: String = source.chars().take(WIDTH - BEFORE).collect();
            if shown != source {
                shown.pop();
                shown.push('…');
            }
            let _ = writeln!(out, "   {NOTE}{number:>4} |{NOTE:#} {shown}");
            if let Some(rule) = rules.iter().find(|rule| rule.line == number) {
                let at = source.find("ports").unwrap_or_default();
                let mark = "^".repeat(source[at..].find(',').unwrap_or(1));
                let _ = writeln!(out, "        {NOTE}|{NOTE:#} {:at$}{BAD}{mark}{BAD:#}", "");
                if let Some(remark) = remark(rule) {
                    let at = at.saturating_sub(remark.len() / 2).min((WIDTH - BEFORE).saturating_sub(remark.len()));
                    let _ = writeln!(out, "        {NOTE}|{NOTE:#} {:at$}{BAD}{remark}{BAD:#}", "");
                }
            }
        }
        out.push('\n');
        self.audience.show(&out)
    }

    /// Why the replies died that did.
    fn diagnosis(&mut self) -> Result<(), DemoError> {
        if self.broken.is_empty() {
            self.surprises.push("no reply has died".into());
        }
        for one in self.broken.drain(..) {
            self.audience.show(&show::broken(&one, "   "))?;
        }
        self.audience.show("\n")?;
        Ok(())
    }

    /// The smallest fix of (a), tried in the engine. Returns the rule.
    fn fix(&mut self) -> Result<String, DemoError> {
        let probe = &self.lab.steps[0].probes[0];
        let flow = self.flow(probe, PAPER_PORT);
        let fix = analyze::smallest_fix(&self.policy.at(&self.lab.hooks[0]).interface, flow, Direction::Inbound, None);
        let solution = self.lab.compile(&self.lab.solution, STATELESS, None)?;
        let Some(NewRule::Nacl { direction, rule: new, .. }) = fix.as_ref().and_then(|fix| fix.rules.first()) else {
            self.surprises.push("the engine found no fix".into());
            return Ok(String::new());
        };
        // What is shown is what is installed, or the story would be one.
        let installed =
            solution.at(&self.lab.hooks[0]).interface.nacl.outbound.iter().find(|rule| rule.number == new.number);
        if installed.is_none_or(|rule| (rule.ports, rule.cidr, rule.action) != (new.ports, new.cidr, new.action)) {
            self.surprises.push("the smallest fix is not the lab's solution".into());
        }
        let rule = rule_toml(new, *direction);
        self.audience.show(&wrap("The answer goes to a port the client picked. Which one, nobody knows beforehand: clients pick from 1024-65535, each system from its own part. So, as one more outbound rule:", "   ", Style::new()))?;
        self.audience.show(&format!("\n   {GOOD}+ {rule}{GOOD:#}\n\n"))?;
        Ok(format!("{} {}", direction.name(), new.number))
    }

    fn closing(&mut self, guess: Option<&str>) -> Result<(), DemoError> {
        let mut out = format!(" {NOTE}{BOLD}What it comes to{BOLD:#}{NOTE:#}\n\n");
        if let Some(guess) = guess.filter(|guess| !guess.is_empty()) {
            let right =
                guess.eq_ignore_ascii_case("none") || guess.eq_ignore_ascii_case("none of them") || guess == "0";
            let (style, word) = if right { (GOOD, "Right.") } else { (WARN, "Not so.") };
            let _ = writeln!(out, "   {style}You said {guess:?}. {word}{style:#}\n");
        }
        out.push_str(&wrap(&self.lab.lesson, "   ", Style::new()));
        for claim in &self.lab.claims {
            let _ = writeln!(out);
            out.push_str(&wrap(&format!("It is said: {}", claim.said), "   ", WARN));
            out.push_str(&wrap(&format!("In fact: {}", claim.right), "   ", GOOD));
        }
        let _ = writeln!(out, "\n {NOTE}{BOLD}Your turn{BOLD:#}{NOTE:#}\n");
        for (command, about) in [
            ("nacld lab list", "two dozen of these, each with a question"),
            ("nacld lab up L08", "one to sit in: hosts, shells, a policy to mend"),
            ("nacld explain --help", "what becomes of any flow, and why"),
        ] {
            let _ = writeln!(out, "   {BOLD}{command:<22}{BOLD:#} {DIM}{about}{DIM:#}");
        }
        if let Some(path) = away() {
            let _ = writeln!(out, "\n   {DIM}nacld is {}{DIM:#}", path.display());
        }
        for surprise in &self.surprises {
            let _ = writeln!(out, "\n {BAD}✗ This did not go as it should: {surprise}{BAD:#}");
        }
        self.audience.show(&out)?;
        Ok(())
    }
}

/// Where this program is, as seen from here, if its name alone does not start it.
fn away() -> Option<PathBuf> {
    let found =
        env::var_os("PATH").is_some_and(|list| env::split_paths(&list).any(|path| path.join("nacld").is_file()));
    let program = env::current_exe().ok().filter(|_| !found)?;
    let here = env::current_dir().ok().and_then(|here| Some(program.strip_prefix(here).ok()?.to_owned()));
    Some(here.unwrap_or(program))
}

/// What is wrong with a rule of the outbound list, for a reply.
fn remark(rule: &Rule) -> Option<String> {
    let (port, _) = rule.ports.filter(|(first, last)| first == last)?;
    Some(format!("only to port {port}, and no client picks that"))
}

/// One line of a scene.
fn line(time: &str, host: &str, text: &str) -> String {
    format!("   {DIM}{time:>11}{DIM:#}  {BOLD}{host:<7}{BOLD:#} {text}\n")
}

fn verdict(by: &Decision, pass: bool) -> String {
    let rule = short(by);
    let text = if pass {
        format!("{GOOD}▐ network ACL, {rule}: allow{GOOD:#}")
    } else {
        format!("{BAD}▐ network ACL, {rule}: deny ✗ it ends here{BAD:#}")
    };
    format!("   {:>11}  {:<7}           {text}\n", "", "")
}

/// One happening, as a line.
fn happens(probe: &Probe, patience: Duration, happening: Happening<'_>) -> String {
    match happening {
        Happening::Packet { host, since, sight } => {
            const ACK: u8 = 0x10;
            let packet = &sight.packet;
            let kind = if packet.tcp_flags & ACK == 0 { "SYN" } else { "SYN/ACK" };
            let does = if sight.sent { "sends" } else { "receives" };
            let (from, to) = (endpoint(packet, packet.src, packet.sport), endpoint(packet, packet.dst, packet.dport));
            let time = format!("{:.2} ms", since.as_secs_f64() * 1000.0);
            // The first time with addresses, then only what is new.
            let route = if sight.sent && since < Duration::from_millis(500) {
                format!("{from} → {to}")
            } else {
                String::new()
            };
            let again = if sight.sent && since >= Duration::from_millis(500) {
                format!("{DIM}again{DIM:#}")
            } else {
                String::new()
            };
            let tail = format!("{route}{again}");
            let kind = if tail.is_empty() {
                format!("{BOLD}{kind}{BOLD:#}")
            } else {
                format!("{BOLD}{kind:<8}{BOLD:#} {tail}")
            };
            line(&time, host, &format!("{does:<9} {kind}"))
        }
        Happening::Verdict { by, pass } => verdict(&by, pass),
        Happening::End { noticed } => {
            let text = match noticed {
                Noticed::Answer(answer) if answer.is_empty() => format!("{GOOD}✓ has its answer{GOOD:#}"),
                Noticed::Answer(answer) => format!("{GOOD}✓ reads {answer:?}{GOOD:#}"),
                Noticed::Silence => {
                    format!("{BAD}hangs{BAD:#}: not a word in {:.1} s, not even a refusal", patience.as_secs_f64())
                }
                Noticed::Stall => format!("{BAD}hangs{BAD:#} in the middle"),
                Noticed::Error(error) => format!("{BAD}gets an error{BAD:#}: {error}"),
            };
            line("", &probe.from, &text)
        }
    }
}
