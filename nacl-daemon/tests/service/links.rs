//! Interfaces that come, go and are renamed, with a kernel that is made up. With the real one: `kernel_links.rs`.

use nacl_daemon::observe::{Change, Happened, Place};

use crate::*;

/// A state without a daemon around it, and its policy file.
struct Stand {
    directory: tempfile::TempDir,
    fake: Fake,
    state: State,
}

impl Stand {
    fn new(wait: bool) -> Self {
        let fake = Fake::default();
        let state = State::new(Box::new(fake.clone()), Settings { wait, ..Settings::default() });
        Self { directory: tempfile::tempdir().unwrap(), fake, state }
    }

    fn with(policy: &str) -> Self {
        let mut stand = Self::new(false);
        stand.apply(policy, None).unwrap();
        stand
    }

    fn apply(&mut self, policy: &str, confirm: Option<Duration>) -> Result<Change, StateError> {
        let file = self.directory.path().join("policy.toml");
        fs::write(&file, policy).unwrap();
        let reading = prepare::read(&file, &NoHost).unwrap();
        self.state.apply(prepare::prepare(&reading, &self.state.slots()).unwrap(), confirm)
    }

    fn happens(&mut self) -> Vec<Happened> {
        self.state.look().0
    }

    fn absent(&self) -> Vec<String> {
        self.state.status().unwrap().absent.into_iter().map(|one| one.interface).collect()
    }

    fn problems(&self) -> String {
        self.state.status().unwrap().problems.join("\n")
    }

    fn is_stateful(&self, name: &str) -> bool {
        self.fake.judges(name).unwrap() & Control::STATEFUL != 0
    }
}

fn place(interface: &str, device: &str) -> Place {
    Place { interface: interface.into(), device: device.into(), netns: None }
}

fn both() -> String {
    format!("{WEB}{SECOND}")
}

/// The same with another mode, so that one sees which policy is in force.
fn stateful() -> String {
    both().replace("nacl = \"web\"", "nacl = \"web\"\nmode = \"stateful\"")
}

const LATER: Option<Duration> = Some(Duration::from_mins(10));

#[test]
fn what_is_not_here_is_waited_for() {
    let mut stand = Stand::new(false);
    stand.fake.vanish("fake1");
    let change = stand.apply(&both(), None).unwrap();
    assert_eq!((change.attached, change.waiting), (vec!["fake0".to_owned()], vec!["fake1".to_owned()]));
    assert_eq!((stand.absent(), stand.state.in_charge()), (vec!["fake1".to_owned()], 2));
    assert!(stand.problems().contains("fake1 is not here, so nothing is enforced on it"), "{}", stand.problems());
    let text = report::status::text(&stand.state.status().unwrap());
    assert!(text.contains("fake1 is not here"), "{text}");
    assert_eq!(stand.happens(), []);
    let error = stand.state.modes(Some("fake1")).unwrap_err();
    assert!(error.hint().unwrap().contains("fake1 (not here)"), "{error}");
    stand.fake.appear("fake1");
    assert_eq!(stand.happens(), [Happened::Came(place("fake1", "fake1"))]);
    assert_eq!((stand.fake.names(), stand.absent()), (vec!["fake0".into(), "fake1".into()], vec![]));
    assert_eq!(stand.problems(), "");
    assert_eq!(stand.happens(), []);
    assert_eq!(stand.fake.lock().tries, 2);
    // A policy that no longer names it does not wait for it.
    stand.fake.vanish("fake1");
    assert_eq!(stand.happens(), [Happened::Went(place("fake1", "fake1"))]);
    stand.apply(WEB, None).unwrap();
    assert_eq!(stand.absent(), [""; 0]);
    stand.fake.appear("fake1");
    assert_eq!(stand.happens(), []);
}

#[test]
fn where_nothing_is_here_that_is_an_error_unless_told_to_wait() {
    let mut stand = Stand::new(false);
    for name in ["fake0", "fake1"] {
        stand.fake.vanish(name);
    }
    let error = stand.apply(&both(), None).unwrap_err();
    assert_eq!(error.to_string(), "none of the policy's interfaces is here: fake0, fake1");
    assert!(error.hint().unwrap().contains("--wait"));
    assert_eq!(stand.state.in_charge(), 0);
    // Nor is what is in force given up for it.
    stand.fake.appear("fake0");
    stand.apply(WEB, None).unwrap();
    let gone = WEB.replace("fake0", "fake1");
    stand.apply(&gone, None).unwrap_err();
    assert_eq!(stand.fake.names(), ["fake0"]);

    // Where it is gone already, nothing is given up.
    stand.fake.vanish("fake0");
    stand.happens();
    assert_eq!(stand.apply(&gone, None).unwrap().waiting, ["fake1"]);

    let mut stand = Stand::new(true);
    stand.fake.vanish("fake0");
    assert_eq!(stand.apply(WEB, None).unwrap().waiting, ["fake0"]);
    stand.fake.appear("fake0");
    assert_eq!(stand.happens(), [Happened::Came(place("fake0", "fake0"))]);
}

#[test]
fn what_goes_and_comes_back_is_enforced_again() {
    let mut stand = Stand::with(&both());
    stand.fake.vanish("fake1");
    assert_eq!(stand.happens(), [Happened::Went(place("fake1", "fake1"))]);
    assert_eq!((stand.fake.names(), stand.absent()), (vec!["fake0".into()], vec!["fake1".into()]));
    // A reload meanwhile holds for it too.
    stand.apply(&stateful(), None).unwrap();
    assert_eq!(stand.absent(), ["fake1"]);
    stand.fake.appear("fake1");
    assert_eq!(stand.happens(), [Happened::Came(place("fake1", "fake1"))]);
    assert!(stand.is_stateful("fake1"));
    // And so does what was set live.
    let setting = Setting { mode: Mode::Stateless, layers: Layers::Both, enforce: true };
    stand.state.set("fake1", setting).unwrap();
    stand.fake.vanish("fake1");
    stand.happens();
    stand.fake.appear("fake1");
    stand.happens();
    assert!(!stand.is_stateful("fake1") && stand.is_stateful("fake0"));
    // One that went and came back before anybody looked is another one.
    stand.fake.vanish("fake1");
    stand.fake.appear("fake1");
    let tries = stand.fake.lock().tries;
    let at = || place("fake1", "fake1");
    assert_eq!(stand.happens(), [Happened::Went(at()), Happened::Came(at())]);
    assert_eq!(stand.fake.lock().tries, tries + 1);
}

#[test]
fn what_is_renamed_stays_enforced_and_the_policy_may_follow() {
    let mut stand = Stand::with(WEB);
    let epoch = stand.fake.lock().attached["fake0"].epoch;
    stand.fake.rename("fake0", "lan0");
    assert_eq!(stand.happens(), [Happened::Renamed(place("fake0", "lan0"))]);
    assert_eq!(stand.fake.lock().attached["fake0"].epoch, epoch, "nothing is switched");
    assert!(stand.problems().contains("device = \"lan0\""), "{}", stand.problems());
    let status = stand.state.status().unwrap();
    assert_eq!((status.interfaces[0].device.as_str(), status.absent.len()), ("lan0", 0));
    assert_eq!((stand.state.name("lan0").unwrap(), stand.happens()), ("fake0".to_owned(), vec![]));
    // The policy as it was, then as it is called now; then something that it is not.
    assert_eq!(stand.apply(WEB, None).unwrap().switched, ["fake0"]);
    let renamed = WEB.replace("[interface.fake0]", "[interface.fake0]\ndevice = \"lan0\"");
    let change = stand.apply(&renamed, None).unwrap();
    assert_eq!((change.switched, change.attached), (vec!["fake0".to_owned()], vec![]));
    assert_eq!((stand.problems().as_str(), stand.fake.lock().tries), ("", 1));
    let error = stand.apply(&renamed.replace("lan0", "wan0"), None).unwrap_err();
    assert!(matches!(error, StateError::NeedsRestart { what: "device", .. }), "{error}");
    // Another entry cannot have it.
    let other = WEB.replace("[interface.fake0]", "[interface.other]\ndevice = \"lan0\"");
    let error = stand.apply(&other, None).unwrap_err();
    assert!(matches!(error, StateError::NeedsRestart { what: "interface.NAME", .. }), "{error}");
}

#[test]
fn the_name_that_the_policy_says_decides() {
    let mut stand = Stand::with(WEB);
    stand.fake.rename("fake0", "lan0");
    stand.happens();
    // Another device is given the name.
    stand.fake.appear("fake0");
    assert_eq!(stand.happens(), [Happened::Went(place("fake0", "lan0")), Happened::Came(place("fake0", "fake0"))]);
    assert_eq!(stand.problems(), "");
    // A device that is renamed to a name that is waited for has come.
    let mut stand = Stand::new(true);
    stand.fake.vanish("fake0");
    stand.apply(WEB, None).unwrap();
    stand.fake.appear("fake0");
    assert_eq!(stand.happens(), [Happened::Came(place("fake0", "fake0"))]);
}

#[test]
fn what_cannot_be_attached_to_is_tried_again_and_told() {
    let mut stand = Stand::new(false);
    stand.fake.vanish("fake1");
    stand.apply(&both(), None).unwrap();
    stand.fake.lock().refuse_attach.insert("fake1".into());
    stand.fake.appear("fake1");
    let (happened, again) = stand.state.look();
    let why = "there is no such interface".to_owned();
    assert_eq!(happened, [Happened::Failed(place("fake1", "fake1"), why.clone())]);
    let status = stand.state.status().unwrap();
    assert_eq!(status.absent[0].why.as_deref(), Some(&*why));
    assert!(status.problems[0].contains("cannot be attached to, and is tried again"), "{:?}", status.problems);
    // Not at once, whoever wakes us.
    let tries = stand.fake.lock().tries;
    for _ in 0..100 {
        assert_eq!(stand.happens(), []);
    }
    assert_eq!(stand.fake.lock().tries, tries);
    assert!(again.is_some());
    // It goes: that is told, and nothing is tried. It comes: it is tried at once.
    stand.fake.vanish("fake1");
    assert_eq!(stand.state.look(), (vec![], None));
    assert_eq!(stand.state.status().unwrap().absent[0].why, None);
    stand.fake.appear("fake1");
    assert_eq!(stand.happens().len(), 1);
    assert_eq!(stand.fake.lock().tries, tries + 1);
    // By itself, once it can be.
    stand.fake.lock().refuse_attach.clear();
    let start = Instant::now();
    loop {
        let (happened, again) = stand.state.look();
        if happened == [Happened::Came(place("fake1", "fake1"))] {
            break;
        }
        assert_eq!(happened, []);
        assert!(start.elapsed() < Duration::from_secs(20), "it is never tried again");
        std::thread::sleep(again.unwrap().min(Duration::from_millis(100)));
    }
}

#[test]
fn what_goes_while_a_change_awaits_confirmation_comes_back_as_before() {
    for confirmed in [true, false] {
        let mut stand = Stand::new(false);
        stand.fake.vanish("fake1");
        stand.apply(&both(), None).unwrap();
        stand.apply(&stateful(), LATER).unwrap();
        // One goes and comes back, one comes for the first time: both under the change, and both wait with it.
        stand.fake.vanish("fake0");
        stand.happens();
        stand.fake.appear("fake0");
        stand.fake.appear("fake1");
        assert_eq!(stand.happens().len(), 2);
        assert!(stand.is_stateful("fake0") && stand.is_stateful("fake1"));
        assert!(stand.state.pending().is_some());
        if confirmed {
            assert_eq!(stand.state.confirm().unwrap(), [""; 0]);
        } else {
            assert_eq!(stand.state.roll_back_pending().unwrap(), [""; 0]);
        }
        stand.happens();
        assert_eq!((stand.fake.names(), stand.absent()), (vec!["fake0".into(), "fake1".into()], vec![]));
        assert_eq!((stand.is_stateful("fake0"), stand.is_stateful("fake1")), (confirmed, confirmed));
        assert_eq!(stand.fake.lock().attached.values().filter(|device| device.pending.is_some()).count(), 0);
    }
}

#[test]
fn what_is_gone_when_a_change_is_undone_comes_back_under_what_was_before() {
    let mut stand = Stand::with(&both());
    stand.apply(&stateful(), LATER).unwrap();
    stand.fake.vanish("fake1");
    stand.happens();
    stand.state.roll_back_pending().unwrap();
    assert_eq!(stand.absent(), ["fake1"]);
    stand.fake.appear("fake1");
    stand.happens();
    assert!(!stand.is_stateful("fake0") && !stand.is_stateful("fake1"));
    // One that the change was to let go of, and that goes by itself.
    stand.apply(WEB, LATER).unwrap();
    stand.fake.vanish("fake1");
    stand.happens();
    stand.state.confirm().unwrap();
    assert_eq!((stand.absent(), stand.fake.names()), (vec![], vec!["fake0".to_owned()]));
}

#[test]
fn what_is_waited_for_can_be_let_go_of() {
    let mut stand = Stand::new(false);
    stand.fake.vanish("fake1");
    stand.apply(&both(), None).unwrap();
    assert_eq!(stand.state.detach("fake1", None).unwrap(), place("fake1", "fake1"));
    assert_eq!(stand.state.in_charge(), 1);
    stand.fake.appear("fake1");
    assert_eq!(stand.happens(), []);
    // And what comes when all is let go of is nobody's.
    stand.fake.vanish("fake0");
    stand.happens();
    stand.state.detach_all().unwrap();
    stand.fake.appear("fake0");
    assert_eq!((stand.happens(), stand.fake.names()), (vec![], vec![]));
}

#[tokio::test]
async fn a_daemon_goes_on_with_nothing_here_and_attaches_what_comes() {
    let policy = WEB.replace("[interface.fake0]", "[interface.fake0]\nnetns = \"no-such-namespace\"");
    let fake = Fake::default();
    let name = "no-such-namespace/fake0";
    fake.vanish(name);
    let error = refused(&policy, &fake).await;
    assert!(error.contains("none of the policy's interfaces is here: fake0 (netns no-such-namespace)"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_in(directory, &policy, fake, |config| config.wait = true).await;
    assert_eq!(daemon.client.status().await.unwrap().absent.len(), 1);
    let attached = async |wanted: usize| {
        let start = Instant::now();
        while daemon.client.status().await.unwrap().interfaces.len() != wanted {
            assert!(start.elapsed() < Duration::from_secs(20), "nobody looks");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    daemon.fake.appear(name);
    attached(1).await;
    // Its events are read too.
    let mut stream = Lines::open(&daemon, "/v1/events").await;
    daemon.fake.emit(name, syn(daemon.fake.slot(name, Direction::Inbound, 110), Action::Deny as u8));
    assert_eq!(stream.next().await["rule"], 110);
    daemon.fake.vanish(name);
    attached(0).await;
    daemon.client.reload(false, None).await.unwrap();
    daemon.fake.appear(name);
    attached(1).await;
}
