//! What `nacld top` shows of values that are made up, and what its keys do: no terminal, no daemon, no kernel. That it is so in a
//! terminal too is shown by `kernel_top.rs`.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use nacl_common::Direction;
use nacl_daemon::{
    observe::{Hits, InterfaceStatus, Reading, Record, Remembered, Setting, Status, interface_rules},
    policy,
    resolve::{Layers, Mode, NoHost},
    service::api::SetMode,
    top::{
        explain::request,
        model::{Dialog, Link, Model, Pane, Read},
        update::{Effect, Message},
        view::Screen,
    },
};
use ratatui::{Terminal, backend::TestBackend, buffer::Buffer, style::Color};
use serde_json::{Value, json};
use snapbox::{assert_data_eq, str};

const POLICY: &str = r#"version = 1
[nacl.web]
inbound = [
  { rule = 90, action = "deny", protocol = "all", source = "203.0.113.0/24" },
  { rule = 100, action = "allow", protocol = "tcp", ports = "https", source = "0.0.0.0/0" },
  { rule = 110, action = "allow", protocol = "icmp", icmp = { type = 8, code = 0 }, source = "0.0.0.0/0" },
]
outbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = "32768-65535", destination = "0.0.0.0/0" },
]
[security_group.sg-web]
inbound = [{ protocol = "tcp", ports = 443, source = "0.0.0.0/0" }]
outbound = []
[interface.eth0]
nacl = "web"
security_groups = ["sg-web"]
[interface.lan]
device = "eth1"
netns = "blue"
nacl = "web"
"#;

fn status(interface: &str, change: Value) -> InterfaceStatus {
    let setting = json!({ "mode": "stateless", "layers": "both", "enforce": true });
    let lan = interface == "lan";
    let mut told = json!({
        "interface": interface,
        "device": if lan { "eth1" } else { interface },
        "netns": if lan { Some("blue") } else { None },
        "addresses": ["10.0.1.10"], "subnet": null, "nacl": "web", "nacl_id": "acl-0a1",
        "mode": "stateless", "layers": "both", "enforce": true, "policy": setting,
        "groups": if lan { None } else { Some(["sg-web"]) },
        "conntrack": {
            "conntrack_allowance_exceeded": 0, "conntrack_allowance_available": 65493, "entries": 43, "expired": 2,
            "capacity": 65536, "nacl": false, "groups": !lan,
        },
        "side": "host",
        "hooks": { "ifindex": 2, "ingress": "XDP, native", "fallback": null, "egress": "TC (tcx)", "programs": [1, 2] },
        "epoch": 3, "packets": { "allowed": 123_456, "denied": 789 },
        "memory": { "generations": 0, "counters": 0, "connections": 0, "other": 0 }, "notes": [],
    });
    merge(&mut told, change);
    serde_json::from_value(told).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// A daemon's answer, `seconds` after the first. What is met grows with time.
fn read(seconds: u64, interface: &Value, daemon: &Value) -> Read {
    let resolved = policy::load("web.toml", POLICY, &NoHost).resolved.expect("a valid policy");
    let mut rules = Vec::new();
    for (name, held) in &resolved.interfaces {
        let mut told = interface_rules(name, held, Setting::of(held), None, Some(3));
        let hits = |per_second: u64, start: u64| {
            let packets = start + per_second * seconds;
            Some(Hits { packets, bytes: 100 * packets })
        };
        for list in &mut told.lists {
            for (at, rule) in list.rules.iter_mut().enumerate() {
                rule.hits = match (list.direction, at) {
                    (Direction::Inbound, 0) => hits(3, 500),
                    (Direction::Inbound, 1) => hits(1500, 1_234_567),
                    (Direction::Outbound, 0) => hits(750, 600_000),
                    (Direction::Outbound, 1) => hits(0, 289),
                    _ => hits(0, 0),
                };
            }
        }
        for group in told.groups.iter_mut().flatten() {
            group.inbound[0].hits = hits(1500, 1_234_000);
        }
        rules.push(told);
    }
    let packets = json!({ "packets": { "allowed": 123_456 + 2250 * seconds, "denied": 789 + 3 * seconds } });
    let one = |name: &str| {
        let mut change = packets.clone();
        merge(&mut change, interface.clone());
        status(name, change)
    };
    let mut told = json!({
        "version": "0.1.0", "pid": 1, "started": "2026-11-21T20:00:00Z", "until": null,
        "policy": { "file": "/etc/nacld/web.toml", "sha256": "1a2b3c4d5e6f".repeat(6)[..64], "loaded": "2026-11-21T22:04:05Z" },
        "last_reload": { "time": "2026-11-21T22:04:05Z", "ok": true, "error": null },
        "pending": null, "problems": [], "on_exit": "detach",
        "interfaces": [one("eth0"), one("lan")], "absent": [],
    });
    merge(&mut told, daemon.clone());
    let status: Status = serde_json::from_value(told).unwrap();
    Read { at: Duration::from_secs(seconds), reading: Reading { status, rules }, connections: None }
}

fn record(change: Value) -> Record {
    let mut told = json!({
        "time": "2026-11-21T22:05:06.123456Z", "interface": "eth0", "device": "eth0", "netns": null, "direction": "outbound",
        "action": "deny", "enforced": true, "reason": "nacl-implicit", "meaning": "", "layer": "nacl", "decided_by": "outbound *",
        "nacl": "web", "rule": "*", "group": null, "position": null, "groups": [], "exemption": null, "line": 0,
        "tracked": false, "also": null, "flow": null, "src": "10.0.1.10", "dst": "198.51.100.7", "protocol": 6, "sport": 443,
        "dport": 1025, "icmp_type": null, "icmp_code": null, "tcp_flags": "SYN,ACK", "fragment": false, "length": 74, "epoch": 3,
    });
    merge(&mut told, change);
    serde_json::from_value(told).unwrap()
}

fn connection(change: Value) -> Remembered {
    let rule =
        json!({ "name": "sg-web", "direction": "inbound", "rule": null, "position": 1, "line": 12, "in_force": true });
    let mut told = json!({
        "interface": "eth0", "device": "eth0", "netns": null, "protocol": 6, "remote": "198.51.100.7", "remote_port": 52345,
        "local": "10.0.1.10", "local_port": 443, "echo_id": null, "began": "inbound", "state": "established",
        "since": "2026-11-21T22:00:00Z", "expires_in": 431_990, "expired": false, "nacl": false, "group": true,
        "nacl_rule": null, "group_rule": rule, "epoch": 3,
    });
    merge(&mut told, change);
    serde_json::from_value(told).unwrap()
}

/// Two readings a second apart.
fn model() -> Model {
    with(&json!({}), &json!({}))
}

fn with(interface: &Value, daemon: &Value) -> Model {
    let mut model = Model::default();
    for seconds in [0, 1] {
        model.update(Message::Read(Box::new(read(seconds, interface, daemon))));
    }
    model
}

fn press(model: &mut Model, keys: &str) -> Vec<Effect> {
    keys.chars().filter_map(|key| code(model, KeyCode::Char(key))).collect()
}

fn code(model: &mut Model, code: KeyCode) -> Option<Effect> {
    model.update(Message::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn drawn(model: &Model, (width, height): (u16, u16), colour: bool) -> Buffer {
    let mut screen = Screen::new(colour);
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| drop(format!("{}", screen.draw(model, frame)))).unwrap();
    terminal.backend().buffer().clone()
}

fn screen(model: &Model, size: (u16, u16)) -> String {
    let buffer = drawn(model, size, false);
    let row = |row| (0..size.0).map(|column| buffer[(column, row)].symbol()).collect::<String>().trim_end().to_owned();
    (0..size.1).map(|line| row(line) + "\n").collect()
}

#[test]
fn rules_on_an_ordinary_terminal() {
    assert_data_eq!(
        screen(&model(), (80, 24)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  reloaded 11-21 22:04
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
allowed 125,706 2.2k/s  denied 792 3/s  conntrack 43 of 65,536 (0%)
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by rule
    Rule           Ports            Remote           Rate/s     Packets
in  90       deny  all              203.0.113.0/24        3         503 ▏
in  100      allow tcp 443          0.0.0.0/0          1.5k   1,236,067 ████████
in  110      allow Echo Request     0.0.0.0/0             0           0
in  *        deny  all              0.0.0.0/0             0           0
in  *        deny  all              ::/0                  0           0
in  sg-web 1 allow tcp 443          0.0.0.0/0          1.5k   1,235,500 ████████
out 100      allow tcp 32768-65535  0.0.0.0/0           750     600,750 ████
out *        deny  all              0.0.0.0/0             0         289
out *        deny  all              ::/0                  0           0









q quit  ? help  Tab pane  / filter  s sort  space pause  m mode  l layers

"]]
    );
}

#[test]
fn rules_on_a_wide_terminal_sorted_by_rate() {
    let mut model = model();
    press(&mut model, "s");
    assert_data_eq!(
        screen(&model, (130, 16)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  reloaded 11-21 22:04
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
allowed 125,706 2.2k/s  denied 792 3/s  conntrack 43 of 65,536 (0%)
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by rate
    Rule           Type                Ports            Remote                              Rate/s     Packets  Line
in  100      allow HTTPS (443)         443              0.0.0.0/0                             1.5k   1,236,067     5 █████████████
in  sg-web 1 allow HTTPS (443)         443              0.0.0.0/0                             1.5k   1,235,500    12 █████████████
out 100      allow Custom TCP          32768 - 65535    0.0.0.0/0                              750     600,750     9 ██████▌
in  90       deny  All traffic         All              203.0.113.0/24                           3         503     4 ▏
out *        deny  All traffic         All              0.0.0.0/0                                0         289
in  110      allow Custom ICMP - IPv4  Echo Request     0.0.0.0/0                                0           0     6
in  *        deny  All traffic         All              0.0.0.0/0                                0           0
in  *        deny  All traffic         All              ::/0                                     0           0
out *        deny  All traffic         All              ::/0                                     0           0

q quit  ? help  Tab pane  / filter  s sort  space pause  m mode  l layers  i interface

"]]
    );
}

#[test]
fn rules_on_a_tiny_terminal() {
    assert_data_eq!(
        screen(&model(), (40, 10)),
        str![[r"
eth0 1/2  stateless  layers both  enforc
 1 Rules  2  3  4   by rule
    Rule       Remote     Rate/s Packets
in  90       D 203.0.113       3     503
in  100      A 0.0.0.0/0    1.5k    1.2M
in  110      A 0.0.0.0/0       0       0
in  *        D 0.0.0.0/0       0       0
in  *        D ::/0            0       0
in  sg-web 1 A 0.0.0.0/0    1.5k    1.2M
q quit  ? help  Tab pane  / filter

"]]
    );
}

#[test]
fn what_stands_out() {
    let failed = json!({ "ok": false, "error": "the policy web.toml has 1 error" });
    let daemon = json!({
        "pending": { "until": "2026-11-21T22:10:00Z", "seconds_left": 42 },
        "last_reload": failed,
        "problems": ["the pins cannot be written"],
        "absent": [{ "interface": "eth9", "device": "eth9", "netns": null, "why": null }],
    });
    let full = json!({ "conntrack_allowance_exceeded": 1234, "entries": 65000, "conntrack_allowance_available": 536 });
    let live = json!({ "mode": "stateful", "enforce": false, "conntrack": full });
    let mut model = with(&live, &daemon);
    model.update(Message::Lost("no nacld is running on /run/nacld/nacld.sock".to_owned()));
    press(&mut model, " ");
    assert_data_eq!(
        screen(&model, (90, 26)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  RELOAD FAILED 11-21 22:04                      PAUSED
eth0 1/2  stateful*  layers both  MONITOR*  acl web  groups sg-web  * set live
allowed 125,706 2.2k/s  denied 792 3/s  conntrack 65,000 of 65,536 (99%)  FULL: 1,234 drop
 NO DAEMON: no nacld is running on /run/nacld/nacld.sock; asking again. What is below is w
 NOT CONFIRMED: undone in 42 s unless you type `nacld confirm`
 MONITOR ONLY: packets are judged and counted, and NONE IS DROPPED
 NOT RELOADED: the policy before it stays in force: the policy web.toml has 1 error
 PROBLEM: the pins cannot be written
 WAITING for eth9: it is not here
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by rule
    Rule           Ports            Remote                    Rate/s     Packets
in  90       deny  all              203.0.113.0/24                 3         503 ▏
in  100      allow tcp 443          0.0.0.0/0                   1.5k   1,236,067 █████████
in  110      allow Echo Request     0.0.0.0/0                      0           0
in  *        deny  all              0.0.0.0/0                      0           0
in  *        deny  all              ::/0                           0           0
in  sg-web 1 allow tcp 443          0.0.0.0/0                   1.5k   1,235,500 █████████
out 100      allow tcp 32768-65535  0.0.0.0/0                    750     600,750 ████▌
out *        deny  all              0.0.0.0/0                      0         289
out *        deny  all              ::/0                           0           0





q quit  ? help  Tab pane  / filter  s sort  space pause  m mode  l layers  i interface

"]]
    );
}

fn verdicts() -> Model {
    let mut model = model();
    press(&mut model, "2");
    let all = [
        json!({}),
        json!({
            "action": "allow", "direction": "inbound", "reason": "nacl-rule", "decided_by": "inbound 100", "rule": 100, "line": 5,
            "src": "198.51.100.7", "dst": "10.0.1.10", "sport": 52345, "dport": 443, "tcp_flags": "SYN",
        }),
        json!({ "enforced": false, "src": "2001:db8::a", "dst": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff" }),
        json!({ "protocol": 1, "sport": null, "dport": null, "icmp_type": 3, "icmp_code": 4, "tcp_flags": null }),
        json!({
            "protocol": null, "src": null, "dst": null, "sport": null, "dport": null, "tcp_flags": null, "nacl": null,
            "rule": null, "reason": "non-ip", "decided_by": "non-ip", "line": null, "direction": "inbound",
        }),
        json!({ "interface": "lan" }),
    ];
    for change in all {
        model.update(Message::Verdict(Box::new(record(change))));
    }
    model
}

#[test]
fn verdicts_as_they_happen() {
    let mut model = verdicts();
    model.update(Message::Missed(1234));
    assert_data_eq!(
        screen(&model, (110, 14)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  reloaded 11-21 22:04
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
allowed 125,706 2.2k/s  denied 792 3/s  conntrack 43 of 65,536 (0%)
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by newest  denied only  1,234 not shown
Time                           Source                   Destination              By
22:05:06.123 in  deny    frame ?                        ?                        non-ip
22:05:06.123 out deny    icmp  10.0.1.10                198.51.100.7 type 3/4    web outbound *
22:05:06.123 out monitor tcp   [2001:db8::a]:443        [2001:db8:ffff:ffff:ffff web outbound *
22:05:06.123 in  allow   tcp   198.51.100.7:52345       10.0.1.10:443 SYN        web inbound 100, line 5
22:05:06.123 out deny    tcp   10.0.1.10:443            198.51.100.7:1025 SYN,AC web outbound *



q quit  ? help  Tab pane  / filter  s sort  e explain  a all  space pause  m mode  l layers  i interface

"]]
    );
    assert_data_eq!(
        screen(&model, (60, 12)),
        str![[r"
eth0 1/2  stateless  layers both  enforcing  acl web  groups
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by n
Time                 Source       Destination By
22:05:06 in  D frame ?            ?           non-ip
22:05:06 out D icmp  10.0.1.10    198.51.100. web outbound *
22:05:06 out M tcp   [2001:db8::a [2001:db8:f web outbound *
22:05:06 in  A tcp   198.51.100.7 10.0.1.10:4 web inbound 10
22:05:06 out D tcp   10.0.1.10:44 198.51.100. web outbound *



q quit  ? help  Tab pane  / filter  s sort  e explain  a all

"]]
    );
}

#[test]
fn connections_that_are_remembered() {
    let mut model = model();
    press(&mut model, "3");
    let mut read = read(2, &json!({}), &json!({}));
    let gone =
        json!({ "name": "web", "direction": "outbound", "rule": 100, "position": null, "line": 9, "in_force": false });
    read.connections = Some(vec![
        connection(json!({})),
        connection(
            json!({ "began": "outbound", "protocol": 17, "remote_port": 53, "local_port": 40000, "state": "replied", "expires_in": 29, "nacl_rule": gone, "group_rule": null }),
        ),
        connection(json!({ "interface": "lan" })),
    ]);
    model.update(Message::Read(Box::new(read)));
    assert_data_eq!(
        screen(&model, (120, 14)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  reloaded 11-21 22:04
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
allowed 127,956 2.2k/s  denied 795 3/s  conntrack 43 of 65,536 (0%)
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by expiry
          Client                        Server                       State         Expires Let in by
in  tcp   198.51.100.7:52345            10.0.1.10:443                established    4d 23h sg-web 1
out udp   10.0.1.10:40000               198.51.100.7:53              replied           29s web 100 (gone)






q quit  ? help  Tab pane  / filter  s sort  space pause  m mode  l layers  i interface

"]]
    );
    assert_data_eq!(
        screen(&model, (80, 14)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  reloaded 11-21 22:04
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
allowed 127,956 2.2k/s  denied 795 3/s  conntrack 43 of 65,536 (0%)
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by expiry
          Client                   Server                  State         Expires
in  tcp   198.51.100.7:52345       10.0.1.10:443           established    4d 23h
out udp   10.0.1.10:40000          198.51.100.7:53         replied           29s






q quit  ? help  Tab pane  / filter  s sort  space pause  m mode  l layers

"]]
    );
}

#[test]
fn broken_returns_and_what_mends_them() {
    let broken = json!([{
        "interface": "eth0", "device": "eth0", "netns": null, "began": "inbound", "protocol": 6, "service": "10.0.1.10",
        "port": 443, "cut": false, "tracked": false, "remote": "0.0.0.0/0", "clients": ["windows"],
        "first": "2026-11-21T22:00:00Z", "last": "2026-11-21T22:05:06Z", "replies": 3, "request": { "decided_by": "inbound 100", "name": "web", "line": 5 },
        "reply": { "decided_by": "outbound *", "name": "web", "line": 0 },
        "example": { "src": "198.51.100.7", "dst": "10.0.1.10", "sport": 1025, "dport": 443, "icmp_type": null },
        "enforced": true, "says": "198.51.100.7:1025 asks 10.0.1.10:443 (tcp), and the reply is dropped",
        "fix": [{ "nacl": "web", "group": null, "direction": "outbound", "rule": "{ rule = 110, action = \"allow\" }" }],
    }]);
    let mut model = with(&json!({}), &json!({ "broken": broken }));
    assert!(screen(&model, (80, 24)).contains("4 Broken returns 1!"), "also from elsewhere");
    press(&mut model, "4");
    assert_data_eq!(
        screen(&model, (80, 12)),
        str![[r"
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
 1 Rules  2 Verdicts  3 Connections  4 Broken returns 1!   by newest
Last     Replies Asks                                  Passes by    Denied by
22:05:06       3 198.51.100.7:1025 10.0.1.10:443       inbound 100  outbound *







q quit  ? help  Tab pane  / filter  s sort  e explain  space pause  m mode

"]]
    );
    assert_eq!(press(&mut model, "e"), []);
    let text = screen(&model, (80, 12));
    assert!(text.contains("BROKEN RETURN on eth0") && text.contains("[nacl.web]: { rule = 110"), "{text}");
    code(&mut model, KeyCode::Esc);
    press(&mut model, "i");
    assert!(screen(&model, (80, 12)).contains("no broken return was found"));
}

#[test]
fn dialogs() {
    let mut model = model();
    press(&mut model, "?");
    assert_data_eq!(
        screen(&model, (80, 24)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  reloaded 11-21 22:04
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
allowed 125,706 2.2k/s  denied 792 3/s  conntrack 43 of 65,536 (0%)
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by rule
    Rule          ┌ Keys ───────────────────────────────────┐   Packets
in  90       deny │ q        quit                           │       503 ▏
in  100      allow│ Ctrl-Z   back to the shell; fg: go on   │ 1,236,067 ████████
in  110      allow│ Tab 1-4  next pane, or that one         │         0
in  *        deny │ j k ↑ ↓  down, up; PgUp PgDn Home End   │         0
in  *        deny │ /        filter: rows with this text    │         0
in  sg-web 1 allow│ Esc      no filter                      │ 1,235,500 ████████
out 100      allow│ s        sort by something else         │   600,750 ████
out *        deny │ space    pause; again: go on            │       289
out *        deny │ a        verdicts: those that pass too  │         0
                  │ e        verdicts: explain this one     │
                  │ m        stateless or stateful          │
                  │ l        which layers judge             │
                  │ i        next interface                 │
                  │          A allowed, D denied, M monitor │
                  └─────────────────────────────────────────┘



q quit  ? help  Tab pane  / filter  s sort  space pause  m mode  l layers

"]]
    );
    press(&mut model, "xm");
    assert_data_eq!(
        screen(&model, (80, 24)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  reloaded 11-21 22:04
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
allowed 125,706 2.2k/s  denied 792 3/s  conntrack 43 of 65,536 (0%)
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by rule
    Rule           Ports            Remote           Rate/s     Packets
in  90       deny  all              203.0.113.0/24        3         503 ▏
in  100      allow tcp 443          0.0.0.0/0          1.5k   1,236,067 ████████
in  110      allow Echo Request     0.0.0.0/0             0           0
in  *       ┌ Change the mode ─────────────────────────────────────┐  0
in  *       │ Make eth0 stateful? It is stateless now.             │  0
in  sg-web 1│                                                      │500 ████████
out 100     │ It holds until the next reload. Only root may do it. │750 ████
out *       │                                                      │289
out *       │ y yes    n no                                        │  0
            └──────────────────────────────────────────────────────┘








q quit  ? help  Tab pane  / filter  s sort  space pause  m mode  l layers

"]]
    );
    press(&mut model, "nl");
    assert_data_eq!(
        screen(&model, (80, 24)),
        str![[r"
nacld 0.1.0  web.toml 1a2b3c4d5e6f  reloaded 11-21 22:04
eth0 1/2  stateless  layers both  enforcing  acl web  groups sg-web
allowed 125,706 2.2k/s  denied 792 3/s  conntrack 43 of 65,536 (0%)
 1 Rules  2 Verdicts  3 Connections  4 Broken returns   by rule
    Rule           Ports            Remote           Rate/s     Packets
in  90       deny  all              203.0.113.0/24        3         503 ▏
in  100      allow tcp 443          0.0.0.0/0          1.5k   1,236,067 ████████
┌ Choose the layers ──────────────────────────────────────────────────────────┐
│ Which layers are to judge on eth0?                                          │
│                                                                             │
│ b both: the network ACL, and the security groups where there are any  (now) │█
│ n nacl: only the network ACL                                                │
│ s sg: only the security groups                                              │
│                                                                             │
│ It holds until the next reload. Only root may do it. Esc: leave it.         │
└─────────────────────────────────────────────────────────────────────────────┘







q quit  ? help  Tab pane  / filter  s sort  space pause  m mode  l layers

"]]
    );
    code(&mut model, KeyCode::Esc);
    let text = (1..=40).fold(String::new(), |text, line| text + &format!("\x1b[1mline\x1b[0m {line}\n"));
    model.update(Message::Explained(Ok(text)));
    press(&mut model, "jj");
    assert_data_eq!(
        screen(&model, (40, 10)),
        str![[r"
eth0 1/2  ┌ Explained · Esc c┐th  enforc
 1 Rules  │ line 3           │
    Rule  │ line 4           │/s Packets
in  90    │ line 5           │ 3     503
in  100   │ line 6           │5k    1.2M
in  110   │ line 7           │ 0       0
in  *     │ line 8           │ 0       0
in  *     │ line 9           │ 0       0
in  sg-web│ line 10          │5k    1.2M
q quit  ? └──────────────────┘lter

"]]
    );
}

#[test]
fn there_is_no_daemon() {
    let mut model = Model::default();
    assert!(screen(&model, (40, 10)).starts_with(" 1 Rules"));
    assert!(screen(&model, (40, 10)).contains("asking the daemon"));
    model.update(Message::Lost("no nacld is running on /run/nacld/nacld.sock".to_owned()));
    assert!(screen(&model, (80, 10)).contains("no nacld is running on /run/nacld/nacld.sock"));
    for pane in "1234".chars() {
        press(&mut model, &pane.to_string());
        press(&mut model, "smlejki");
        model.dialog = None;
    }
    assert_eq!(press(&mut model, "q"), [Effect::Quit]);
}

#[test]
fn every_size_is_drawn() {
    let mut models = vec![model(), verdicts(), Model::default()];
    for keys in ["?", "m", "l", "3", "4", "/x"] {
        let mut model = model();
        press(&mut model, keys);
        models.push(model);
    }
    let mut text = model();
    text.update(Message::Explained(Ok("a long line ".repeat(20))));
    models.push(text);
    models.push(with(&json!({ "enforce": false }), &json!({ "problems": ["a", "b", "c", "d"] })));
    for model in &models {
        for width in (1..30).chain([40, 60, 80, 100, 120, 200]) {
            for height in 1..30 {
                drawn(model, (width, height), true);
            }
        }
    }
}

/// Whoever sees no colour, or is given none, reads the same.
#[test]
fn colour_is_never_alone() {
    for model in [model(), verdicts(), with(&json!({ "enforce": false }), &json!({}))] {
        let (plain, coloured) = (drawn(&model, (110, 30), false), drawn(&model, (110, 30), true));
        let symbols =
            |buffer: &Buffer| buffer.content().iter().map(|cell| cell.symbol().to_owned()).collect::<Vec<_>>();
        assert_eq!(symbols(&plain), symbols(&coloured));
        let set =
            |buffer: &Buffer| buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert!(!set(&plain) && set(&coloured));
    }
    // Each line of what decides has its word or letter where it has its colour.
    let text = screen(&verdicts(), (60, 12));
    for (letter, what) in [("A", "inbound 10"), ("D", "non-ip"), ("M", "2001:db8::a")] {
        let line = text.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}:\n{text}"));
        assert!(line.split_whitespace().any(|word| word == letter), "{line}");
    }
}

#[test]
fn rates_are_of_the_time_between_two_readings() {
    let mut model = model();
    let rate = |model: &Model| {
        let line =
            model.rule_lines().into_iter().find(|line| line.rule == "100" && line.direction == Direction::Inbound);
        line.unwrap().rate
    };
    assert_eq!((rate(&model), model.rates()), (Some(1500.0), Some((2250.0, 3.0))));
    // One that comes soon after, because a key was pressed, is counted from the same reading as that before it.
    let mut soon = read(2, &json!({}), &json!({}));
    soon.at = Duration::from_millis(1100);
    model.update(Message::Read(Box::new(soon)));
    assert_eq!(rate(&model).map(f64::round), Some(2727.0), "3000 packets in 1.1 s");
    model.update(Message::Read(Box::new(read(3, &json!({}), &json!({})))));
    assert_eq!(rate(&model).map(f64::round), Some(789.0), "1500 packets in 1.9 s");
    // A daemon that began anew has counted less: no rate is below zero.
    let mut anew = read(0, &json!({}), &json!({}));
    anew.at = Duration::from_secs(5);
    model.update(Message::Read(Box::new(anew)));
    assert_eq!((rate(&model), model.rates()), (Some(0.0), Some((0.0, 0.0))));
}

#[test]
fn rows_are_filtered_sorted_and_walked() {
    let mut model = model();
    let rules = |model: &Model| model.rule_lines().iter().map(|line| line.rule.clone()).collect::<Vec<_>>();
    // Inbound the network ACL first, outbound the groups: there are none that allow.
    assert_eq!(rules(&model), ["90", "100", "110", "*", "*", "sg-web 1", "100", "*", "*"]);
    press(&mut model, "s");
    assert_eq!(rules(&model)[..4], ["100", "sg-web 1", "100", "90"], "by rate, then by packets");
    press(&mut model, "s");
    assert_eq!(rules(&model)[..3], ["100", "sg-web 1", "100"], "by packets");
    press(&mut model, "s/DENY");
    assert_eq!(rules(&model), ["90", "*", "*", "*", "*"], "as it is typed, and whatever the case");
    code(&mut model, KeyCode::Enter);
    press(&mut model, "jjjjjjjj");
    assert_eq!(model.list().cursor, 4, "the last row");
    code(&mut model, KeyCode::Home);
    model.update(Message::Page(3));
    code(&mut model, KeyCode::PageDown);
    assert_eq!(model.list().cursor, 3);
    press(&mut model, "/");
    code(&mut model, KeyCode::Backspace);
    assert_eq!(model.list().filter, "DEN");
    code(&mut model, KeyCode::Esc);
    assert_eq!((model.typing, model.list().filter.as_str(), rules(&model).len()), (false, "", 9));
    // A key that is a command is a letter while one types.
    press(&mut model, "/qm");
    assert_eq!((model.list().filter.as_str(), rules(&model).len()), ("qm", 0));
    assert!(screen(&model, (80, 24)).contains("nothing matches the filter"));
    code(&mut model, KeyCode::Esc);
    // Each pane has its own place.
    assert_eq!(press(&mut model, "2"), [Effect::Refresh]);
    assert_eq!((model.pane, model.list().cursor), (Pane::Verdicts, 0));
    code(&mut model, KeyCode::BackTab);
    assert_eq!(model.pane, Pane::Rules);
}

#[test]
fn what_is_under_the_cursor_stays_there() {
    let mut model = verdicts();
    assert_eq!(model.verdicts().len(), 5, "of this interface");
    press(&mut model, "j");
    let under = model.verdicts()[model.list().cursor].clone();
    model.update(Message::Verdict(Box::new(record(json!({ "sport": 1 })))));
    model.update(Message::Verdict(Box::new(record(json!({ "interface": "lan" })))));
    assert_eq!((model.list().cursor, &under), (2, model.verdicts()[2]));
    code(&mut model, KeyCode::Home);
    model.update(Message::Verdict(Box::new(record(json!({ "sport": 2 })))));
    assert_eq!((model.list().cursor, model.verdicts()[0].sport), (0, Some(2)), "the newest");
    // Nothing moves while it is paused.
    press(&mut model, " ");
    model.update(Message::Verdict(Box::new(record(json!({ "sport": 3 })))));
    model.update(Message::Read(Box::new(read(9, &json!({}), &json!({})))));
    assert_eq!((model.verdicts()[0].sport, model.now.as_ref().unwrap().at), (Some(2), Duration::from_secs(1)));
    assert!(screen(&model, (80, 24)).contains("PAUSED"));
    press(&mut model, " ");
    model.update(Message::Read(Box::new(read(9, &json!({}), &json!({})))));
    assert_eq!(model.now.as_ref().unwrap().at, Duration::from_secs(9));
    // Only so many are kept.
    for _ in 0..2000 {
        model.update(Message::Verdict(Box::new(record(json!({})))));
    }
    assert_eq!(model.records.len(), nacl_daemon::top::model::RECORDS);
}

#[test]
fn the_same_interface_stays_on_the_screen() {
    let mut model = model();
    press(&mut model, "i");
    assert_eq!(model.status().unwrap().interface, "lan");
    let mut fewer = read(2, &json!({}), &json!({}));
    fewer.reading.status.interfaces.remove(0);
    fewer.reading.rules.remove(0);
    model.update(Message::Read(Box::new(fewer)));
    assert_eq!((model.status().unwrap().interface.as_str(), model.interface), ("lan", 0));
    model.update(Message::Read(Box::new(read(3, &json!({}), &json!({})))));
    assert_eq!((model.status().unwrap().interface.as_str(), model.interface), ("lan", 1));
    press(&mut model, "i");
    assert_eq!(model.status().unwrap().interface, "eth0");
    // Nothing is left.
    let mut none = read(4, &json!({}), &json!({}));
    none.reading.status.interfaces.clear();
    none.reading.rules.clear();
    model.update(Message::Read(Box::new(none)));
    assert!(screen(&model, (80, 24)).contains("no interface: nothing is enforced"));
    assert_eq!(press(&mut model, "mlei"), []);
}

#[test]
fn what_changes_something_asks_first() {
    let mut model = model();
    let set = SetMode { mode: Some(Mode::Stateful), ..SetMode::default() };
    assert_eq!(press(&mut model, "m"), []);
    // No key but yes does it, and Enter is none.
    for key in [KeyCode::Enter, KeyCode::Char(' '), KeyCode::Char('m'), KeyCode::Tab] {
        assert_eq!(code(&mut model, key), None);
        assert!(matches!(model.dialog, Some(Dialog::Ask { .. })), "{key:?}");
    }
    assert_eq!(press(&mut model, "y"), [Effect::Set { interface: "eth0".into(), set }]);
    assert_eq!(model.dialog, None);
    assert_eq!((press(&mut model, "mn"), press(&mut model, "my").len()), (vec![], 1));
    model.update(Message::Set(Err("that is for root (run it by sudo)".to_owned())));
    assert!(screen(&model, (80, 24)).contains("not done: that is for root (run it by sudo)"));
    let layers = |layers| SetMode { layers: Some(layers), ..SetMode::default() };
    assert_eq!(press(&mut model, "ls"), [Effect::Set { interface: "eth0".into(), set: layers(Layers::Groups) }]);
    assert_eq!(press(&mut model, "lb"), [], "they do judge");
    // An interface without groups: nothing would judge.
    press(&mut model, "il");
    assert_eq!(press(&mut model, "s"), []);
    assert_eq!(press(&mut model, "n"), [Effect::Set { interface: "lan".into(), set: layers(Layers::Nacl) }]);
    // Control and C ends it, also over a question or while one types; Control and Z stops it.
    for before in ["m", "n/"] {
        press(&mut model, before);
        for (key, effect) in [('z', Effect::Suspend), ('c', Effect::Quit)] {
            let key = KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL);
            assert_eq!(model.update(Message::Key(key)), Some(effect));
        }
    }
}

#[test]
fn verdicts_are_explained_and_allowed_ones_followed() {
    let mut model = model();
    assert_eq!(press(&mut model, "e"), []);
    assert!(screen(&model, (80, 24)).contains("keys 2 and 4 show them"));
    let mut model = verdicts();
    assert_eq!(press(&mut model, "je"), [Effect::Explain(Box::new(model.verdicts()[1].clone()))]);
    assert_eq!(press(&mut model, "a"), [Effect::Follow { all: true }]);
    assert_eq!(model.update(Message::NotTold("not now".to_owned())), Some(Effect::Follow { all: false }));
    assert!(!model.allowed_too && screen(&model, (80, 24)).contains("not done: not now"));
    model.update(Message::Lost("gone".to_owned()));
    assert_eq!(model.link, Link::Lost("gone".to_owned()));
}

#[test]
fn a_packet_s_request() {
    let ends = |change: Value| {
        let (flow, direction) = request(&record(change))?;
        Some((direction, flow.source.to_string(), flow.sport, flow.destination.to_string(), flow.dport))
    };
    let (client, server) = (|| "198.51.100.7".to_owned(), || "10.0.1.10".to_owned());
    let asked = Some((Direction::Inbound, client(), 1025, server(), 443));
    assert_eq!(ends(json!({})), asked, "SYN,ACK answers");
    assert_eq!(ends(json!({ "tcp_flags": "ACK" })), asked, "the service has the lower port");
    assert_eq!(
        ends(json!({ "tcp_flags": "ACK", "flow": "reply", "dport": 1, "sport": 2 })),
        Some((Direction::Inbound, client(), 1, server(), 2))
    );
    let asks = Some((Direction::Outbound, server(), 443, client(), 1025));
    assert_eq!(ends(json!({ "tcp_flags": "SYN" })), asks);
    assert_eq!(ends(json!({ "flow": "forward" })), asks);
    assert_eq!(
        ends(json!({ "protocol": 17, "tcp_flags": null, "sport": 53, "dport": 40000 })),
        Some((Direction::Inbound, client(), 40000, server(), 53))
    );
    let icmp = |kind: u8| json!({ "protocol": 1, "tcp_flags": null, "sport": null, "dport": null, "icmp_type": kind, "icmp_code": 0 });
    assert_eq!(
        ends(icmp(0)),
        Some((Direction::Inbound, client(), 0, server(), 8 << 8)),
        "an echo reply answers an echo"
    );
    assert_eq!(ends(icmp(11)), Some((Direction::Outbound, server(), 0, client(), 11 << 8)));
    assert_eq!(ends(json!({ "fragment": true })), None);
    assert_eq!(ends(json!({ "src": null })), None);
}
