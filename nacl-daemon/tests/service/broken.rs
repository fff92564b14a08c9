//! Broken returns as a daemon tells them: found by what the kernel reports, explained, listed, streamed, and dropped by what mends them.

use nacl_common::flow::Sought;
use nacl_daemon::observe::BrokenReturn;

use crate::*;

/// Requests to port 443 get in, and no reply gets out.
pub const SHUT: &str = r#"version = 1
[nacl.shut]
inbound = [
  { rule = 100, action = "allow", protocol = "tcp", ports = 443, source = "198.51.100.0/24" },
]
outbound = [
]
[interface.fake0]
nacl = "shut"
"#;

/// A client's SYN, which passes.
fn request(slot: u16) -> Event {
    Event { dport: 443, action: 1, time: NOW, ..syn(slot, 1) }
}

/// The SYN and ACK to it, which does not.
fn reply(slot: u16) -> Event {
    let Event { src, dst, sport, dport, .. } = request(slot);
    let reason = Reason::NaclImplicit as u8;
    let (src, dst, sport, dport) = (dst, src, dport, sport);
    Event { src, dst, sport, dport, tcp_flags: 0x12, direction: 1, reason, time: NOW, ..syn(slot, 0) }
}

/// Has a made-up kernel meet both, and waits until it is told.
pub async fn meet(daemon: &Daemon, name: &str) -> BrokenReturn {
    let asked = daemon.fake.slot(name, Direction::Inbound, 100);
    let denied = implicit_slot(Direction::Outbound, false);
    daemon.fake.emit(name, request(asked));
    daemon.fake.emit(name, reply(denied));
    for _ in 0..200 {
        if let Some(found) = daemon.client.broken(Some(name)).await.unwrap().broken.pop() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is never told");
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..200 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: never");
}

#[tokio::test]
async fn a_broken_return_is_explained_and_dropped_once_it_is_mended() {
    let daemon = Daemon::start(SHUT).await;
    let mut stream = Lines::open(&daemon, "/v1/events?broken=true&filter=allowed").await;
    let found = meet(&daemon, "fake0").await;
    let by = |ruling: &nacl_daemon::observe::broken::Ruling| (ruling.decided_by.to_string(), ruling.line);
    assert_eq!((by(&found.request), by(&found.reply)), (("inbound 100".into(), 4), ("outbound *".into(), 0)));
    assert_eq!((found.service, found.port, found.protocol), ("10.0.1.10".parse().ok(), Some(443), 6));
    assert_eq!(found.remote.to_string(), "198.51.100.0/24");
    let kinds: Vec<_> = found.clients.iter().map(|client| client.name()).collect();
    assert_eq!(kinds, ["linux", "linux-old", "windows", "macos", "freebsd", "nat-gateway", "elb", "lambda"]);
    assert!(found.says.contains("198.51.100.7:52345 asks 10.0.1.10:443 (tcp)"), "{}", found.says);
    assert!(found.says.contains("inbound rule 100 of \"shut\" (line 4) lets it in"), "{}", found.says);
    let fix = &found.fix.as_ref().unwrap()[0];
    let rule =
        r#"{ rule = 100, action = "allow", protocol = "tcp", ports = "1024-65535", destination = "198.51.100.0/24" }"#;
    assert_eq!((fix.nacl.as_deref(), fix.direction, fix.rule.as_str()), (Some("shut"), Direction::Outbound, rule));
    // The stream has the request, which was asked for, and then what came of it.
    let mut lines = [stream.next().await, stream.next().await];
    lines.sort_by_key(|line| line["broken"].is_object());
    assert_eq!((&lines[0]["action"], &lines[1]["broken"]["port"]), (&"allow".into(), &443.into()));
    // The status is loud about it.
    let status = daemon.client.status().await.unwrap();
    assert_eq!(status.broken.len(), 1);
    let text = report::status::text(&status);
    assert!(text.contains("1 BROKEN RETURN") && text.contains(rule), "{text}");
    // Once more is counted, and is the same.
    daemon.fake.emit("fake0", reply(implicit_slot(Direction::Outbound, false)));
    for _ in 0..200 {
        if daemon.client.broken(None).await.unwrap().broken[0].replies == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = daemon.client.broken(None).await.unwrap();
    assert_eq!((answer.broken.len(), answer.broken[0].replies), (1, 2));
    // Another rule than before it changes nothing for the reply, and the fix takes another number.
    let other = r#"outbound = [
  { rule = 100, action = "allow", protocol = "udp", ports = 53, destination = "0.0.0.0/0" },"#;
    daemon.write(&SHUT.replace("outbound = [", other));
    daemon.client.reload(false, None).await.unwrap();
    let still = daemon.client.broken(None).await.unwrap().broken;
    assert!(still[0].fix.as_ref().unwrap()[0].rule.contains("rule = 200"), "{still:?}");
    // The fix, applied.
    daemon.write(&SHUT.replace("outbound = [", &format!("outbound = [\n  {rule},")));
    daemon.client.reload(false, None).await.unwrap();
    let answer = daemon.client.broken(None).await.unwrap();
    assert_eq!((answer.broken.len(), answer.broken_counts[0].returns, answer.broken_counts[0].replies), (0, 1, 2));
    daemon.client.stop().await.unwrap();
    daemon.ended().await;
}

#[tokio::test]
async fn without_the_request_nothing_is_said_but_it_is_looked_for() {
    let daemon = Daemon::start(SHUT).await;
    let sought = || daemon.fake.lock().attached["fake0"].sought.clone();
    let denied = implicit_slot(Direction::Outbound, false);
    daemon.fake.emit("fake0", reply(denied));
    until("it is looked for", || !sought().is_empty()).await;
    // 10.0.1.10, inbound, TCP, 443.
    assert_eq!(sought(), [Sought(0x0a00_010a << 32 | 0x06 << 16 | 0x01bb)]);
    // A reply of another connection proves nothing, nor does a request that comes later.
    daemon.fake.emit("fake0", Event { sport: 52347, ..request(daemon.fake.slot("fake0", Direction::Inbound, 100)) });
    daemon.fake.emit("fake0", reply(denied));
    until("it is read", || daemon.fake.lock().attached["fake0"].queue.is_empty()).await;
    assert!(daemon.client.broken(None).await.unwrap().broken.is_empty());
    // What is only looked for is not shown to whoever wants what is dropped.
    let mut stream = Lines::open(&daemon, "/v1/events?broken=true").await;
    let found = meet(&daemon, "fake0").await;
    assert_eq!(found.example.sport, Some(52345));
    let lines = [stream.next().await, stream.next().await];
    assert!(lines.iter().all(|line| line["action"] != "allow"), "{lines:?}");
    daemon.client.stop().await.unwrap();
    daemon.ended().await;
}

/// In stateful mode the reply passes, so it cannot be what the policy denies.
#[tokio::test]
async fn another_mode_mends_it_too() {
    let daemon = Daemon::start(SHUT).await;
    meet(&daemon, "fake0").await;
    let stateful = SetMode { mode: Some(Mode::Stateful), force: true, ..SetMode::default() };
    daemon.client.set_mode("fake0", &stateful).await.unwrap();
    assert!(daemon.client.broken(None).await.unwrap().broken.is_empty());
    daemon.client.stop().await.unwrap();
    daemon.ended().await;
}

#[tokio::test]
async fn events_are_filtered_by_an_expression() {
    let daemon = Daemon::start(SHUT).await;
    let mut stream =
        Lines::open(&daemon, "/v1/events?filter=denied%20and%20remote%20198.51.100.0/24%20and%20not%20sport%2022")
            .await;
    assert_eq!(daemon.fake.lock().attached["fake0"].events, Some(Events::Denied), "what passes need not be reported");
    let denied = implicit_slot(Direction::Outbound, false);
    daemon.fake.emit("fake0", Event { sport: 22, ..reply(denied) });
    daemon.fake.emit("fake0", Event { dst: [0, 0xc000_0201], ..reply(denied) });
    daemon.fake.emit("fake0", reply(denied));
    assert_eq!(stream.next().await["sport"], 443);
    let (code, problem) = daemon.json(Method::GET, "/v1/events?filter=tcp%20and%20prot%2080").await;
    let error = problem["error"].as_str().unwrap();
    assert!(code == 400 && error.contains("tcp and prot 80\n          ^"), "{code} {error}");
    daemon.client.stop().await.unwrap();
    daemon.ended().await;
}
