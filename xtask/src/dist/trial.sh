#!/bin/sh
# A new user's first hour with the package: install it, run the unit's own command line with the unit's own rights, change
# the policy, lose the daemon, remove it. Runs as root in a chroot of a clean Debian, in namespaces (mounts, network,
# processes) that end with it. Arguments: the package.
set -eu

DEB=$1
UNIT=/usr/lib/systemd/system/nacld.service
MOUNT=/usr/lib/systemd/system/run-nacld-bpf.mount
POLICY=/etc/nacld/policy.toml

step() {
    echo "trial: $*"
}
fail() {
    echo "trial: FAILED: $*" >&2
    [ ! -f /tmp/log ] || sed 's/^/trial: log: /' /tmp/log >&2
    exit 1
}
# A key of a unit file. All its values, in order, last line last.
key() {
    sed -n "s/^$2=//p" "$1"
}
# Everything that is on the disk and in /run, but what any package manager and any new user leave.
inventory() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/lib/dpkg -o -path /var/log \
        -o -path /var/cache -o -path /var/lib/apt -o -path /run/netns \) -prune -o -print |
        grep -v -e '^/etc/\.pwd\.lock$' -e '^/etc/[a-z]*-$' | sort
    grep -c . /proc/self/mounts
    ip -details link show dev wan0 | grep -c xdp || true
}
policy() {
    cat >$POLICY <<END
version = 1

[nacl.trial]
inbound = [
  { rule = 50, action = "$1", protocol = "icmp", source = "0.0.0.0/0" },
  { rule = 100, action = "allow", protocol = "all", source = "0.0.0.0/0" },
]
outbound = [
  { rule = 100, action = "allow", protocol = "all", destination = "0.0.0.0/0" },
]

[interface.wan0]
nacl = "trial"
END
}
answers() {
    ip netns exec other ping -c 1 -W 1 -q 10.99.0.1 >/dev/null
}
passes() {
    answers || fail "$1: a packet that is allowed did not come through"
}
drops() {
    ! answers || fail "$1: a packet that is denied came through"
}
denied() {
    nacld rules wan0 --json | tr -d ' \n' | sed 's/.*"rule":50,[^}]*"hits":{"packets":\([0-9]*\).*/\1/'
}
# What systemd does with the unit: the user, the capabilities, nothing else to be had.
start() {
    caps=$(key $UNIT AmbientCapabilities | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g')
    (
        umask "$(key $UNIT UMask)"
        # shellcheck disable=SC2046 # the command line is words
        exec setpriv --reuid="$(key $UNIT User)" --regid="$(key $UNIT Group)" --clear-groups --no-new-privs \
            --inh-caps="-all,$caps" --ambient-caps="-all,$caps" --bounding-set="-all,$caps" \
            $(key $UNIT ExecStart)
    ) >>/tmp/log 2>&1 &
    PID=$!
    tries=0
    until nacld status >/tmp/status 2>&1; do
        tries=$((tries + 1))
        kill -0 $PID 2>/dev/null || fail "the daemon ended: $(cat /tmp/status)"
        [ $tries -lt 300 ] || fail "the daemon does not answer: $(cat /tmp/status)"
        sleep 0.1
    done
}

ip link set lo up
ip netns add other
ip link add wan0 type veth peer name far netns other
ip address add 10.99.0.1/24 dev wan0
ip link set wan0 up
ip -n other address add 10.99.0.2/24 dev far
ip -n other link set far up
inventory >/tmp/before
passes "before anything"

step "installing"
apt-get install --yes --quiet --quiet --no-install-recommends "$DEB" >/tmp/apt 2>&1 || fail "apt-get: $(cat /tmp/apt)"
nacld --version
getent passwd nacld >/dev/null || fail "there is no user nacld"
[ "$(stat --format %U /run/nacld)" = nacld ] || fail "/run/nacld is not nacld's"
! nacld status >/dev/null 2>&1 || fail "something was started by the installation"
nacld check $POLICY || fail "the policy that comes with the package has errors"
! nacld run --config $POLICY --no-pins >/tmp/status 2>&1 || fail "a policy without an interface was put in force"
grep -q "names no interface" /tmp/status || fail "$(cat /tmp/status)"
for file in /usr/share/man/man1/nacld.1.gz /usr/share/man/man1/nacld-run.1.gz /usr/share/doc/nacld/copyright \
    /usr/share/bash-completion/completions/nacld /usr/share/doc/nacld/examples/labs/l01.toml; do
    [ -s $file ] || fail "$file is missing"
done
nacld lab list >/dev/null || fail "the labs are not in it"
passes "installed, and nothing in force"

step "starting the unit's command line: $(key $UNIT ExecStart)"
mount -t "$(key $MOUNT Type)" -o "$(key $MOUNT Options)" "$(key $MOUNT What)" "$(key $MOUNT Where)"
key $UNIT ExecStartPre | sed 's/^+//' | sh -eu
policy deny
start
drops "the first policy"
[ "$(stat --format %U /proc/$PID)" = nacld ] || fail "the daemon is not nacld's"
[ -n "$(ls /run/nacld/bpf)" ] || fail "nothing is pinned"

step "who may look, and who may change"
look="setpriv --reuid=nobody --regid=nogroup"
! $look --clear-groups nacld status >/dev/null 2>&1 || fail "anybody may look"
$look --groups=nacld nacld status >/dev/null || fail "a member of the group may not look"
! $look --groups=nacld nacld reload >/dev/null 2>&1 || fail "a member of the group may change the policy"

step "reloading"
policy allow
nacld reload
passes "reloaded"
echo "nonsense" >>$POLICY
! nacld reload 2>/dev/null || fail "a policy with a mistake was taken"
passes "a policy with a mistake"
nacld status | grep -q "failed" || fail "status does not tell of the reload that failed"

step "confirming, rolling back"
policy deny
nacld reload --confirm 60s
drops "unconfirmed, and in force"
nacld rollback
passes "rolled back"
nacld reload --confirm 60s
nacld confirm
drops "confirmed"

step "killing the daemon, and starting another"
before=$(denied)
kill -KILL $PID
wait $PID || true
drops "with nobody there"
start
drops "with another daemon"
after=$(denied)
[ "$after" -gt "$before" ] || fail "counters went from $before to $after"

step "installing once more over a daemon that runs"
dpkg --install "$DEB" >/tmp/apt 2>&1 || fail "dpkg: $(cat /tmp/apt)"
kill -0 $PID || fail "an upgrade without systemd ended the daemon"
drops "after an upgrade"

step "removing"
dpkg --remove nacld >/tmp/apt 2>&1 || fail "dpkg: $(cat /tmp/apt)"
cat /tmp/apt
passes "removed"
! kill -0 $PID 2>/dev/null || fail "the daemon still runs"
[ -f $POLICY ] || fail "the policy went with the package"
[ ! -e /run/nacld ] || fail "left in /run/nacld: $(find /run/nacld)"

step "purging"
dpkg --purge nacld >/tmp/apt 2>&1 || fail "dpkg: $(cat /tmp/apt)"
inventory >/tmp/after
diff /tmp/before /tmp/after || fail "this is not as it was before"
step "nothing stays"
