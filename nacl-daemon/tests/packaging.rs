//! What is packed around the program: the unit, the recipes for containers, the first lines of each. What can be told
//! without a service manager, a registry or a cluster: `cargo xtask dist --test` installs and runs the package.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use yaml_rust2::{Yaml, YamlLoader};

fn packaging(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The values of a unit's keys, in order.
fn unit(name: &str) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in packaging(name).lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty()) {
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
        keys.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    keys
}

/// Whether nacld knows every option of a command line: with `--help` at its end nothing else is done.
fn takes(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_nacld")).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "nacld {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let unknown =
        Command::new(env!("CARGO_BIN_EXE_nacld")).args(arguments).args(["--no-such-option", "--help"]).output();
    assert!(!unknown.unwrap().status.success(), "nacld {arguments:?}: takes anything");
}

#[test]
fn the_unit_s_command_line_is_one_that_nacld_takes() {
    let unit = unit("nacld.service");
    let line: Vec<&str> = unit["ExecStart"][0].split(' ').collect();
    assert_eq!(line[0], "/usr/bin/nacld");
    takes(&line[1..]);
    assert_eq!(unit["ConditionPathExists"], ["/etc/nacld/policy.toml"]);
    assert!(unit["ExecStart"][0].contains(" --config /etc/nacld/policy.toml "));
}

#[test]
fn the_unit_grants_three_capabilities_and_the_drop_in_one_more() {
    let (service, more, mount) = (unit("nacld.service"), unit("netns.conf"), unit("run-nacld-bpf.mount"));
    let three = ["CAP_BPF CAP_NET_ADMIN CAP_PERFMON"];
    assert_eq!(
        (&service["AmbientCapabilities"][..], &service["CapabilityBoundingSet"][..]),
        (&three.map(str::to_owned)[..], &three.map(str::to_owned)[..])
    );
    assert_eq!(
        (&more["AmbientCapabilities"][0], &more["CapabilityBoundingSet"][0]),
        (&"CAP_SYS_ADMIN".into(), &"CAP_SYS_ADMIN".into())
    );
    assert_eq!((&more["RestrictNamespaces"][0], &service["RestrictNamespaces"][0]), (&"net".into(), &"yes".into()));
    // What the daemon expects where it keeps its pins, and what the service may write.
    let state = Path::new(nacl_daemon::service::DEFAULT_STATE);
    let bpf = state.join("bpf").display().to_string();
    assert_eq!((&mount["Where"][0], &service["ReadWritePaths"][0]), (&bpf, &bpf));
    assert_eq!(Path::new("/run").join(&service["RuntimeDirectory"][0]), state);
    assert_eq!(mount["Type"], ["bpf"]);
    // In this order: systemd before 253 does not know the second, and keeps the first.
    assert_eq!(service["Type"], ["notify", "notify-reload"]);
}

/// `systemd-analyze verify` says what it does not understand. Needs systemd-analyze (Debian: systemd).
#[test]
fn systemd_understands_the_units() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["nacld.service", "run-nacld-bpf.mount"] {
        // The program need not be installed here, nor its manual.
        let text = packaging(name).replace("/usr/bin/nacld", env!("CARGO_BIN_EXE_nacld")).replace("man:nacld(1) ", "");
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with("Documentation=man"))
            .fold(String::new(), |text, line| text + line + "\n");
        fs::write(directory.path().join(name), text).unwrap();
    }
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).current_dir(directory.path()).env("SYSTEMD_LOG_COLOR", "0");
        let output =
            command.output().unwrap_or_else(|error| panic!("systemd-analyze (apt-get install systemd): {error}"));
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    };
    let (_, version) = analyze(&["--version"]);
    let version: u32 = version.split_whitespace().nth(1).and_then(|text| text.split('.').next()?.parse().ok()).unwrap();
    let (_, said) = analyze(&["verify", "./nacld.service", "./run-nacld-bpf.mount"]);
    // Of other units of this machine it speaks too.
    let ours: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("nacld"))
        .filter(|line| !(version < 253 && line.ends_with("Failed to parse service type, ignoring: notify-reload")))
        .collect();
    assert_eq!(ours, [""; 0], "systemd {version}");
    // 10 is a service that may do anything; what is left to this one is in the list that this prints.
    let (good, said) = analyze(&["security", "--offline=true", "--threshold=25", "./nacld.service"]);
    assert!(good, "{said}");
    // And it tells a service with more from one with less.
    let more = format!(
        "{}\n[Service]\nCapabilityBoundingSet=CAP_SYS_ADMIN CAP_SYS_MODULE CAP_SYS_PTRACE\nNoNewPrivileges=no\nSystemCallFilter=\nProtectKernelModules=no\n",
        packaging("nacld.service")
    );
    fs::write(directory.path().join("nacld.service"), more).unwrap();
    let (good, said) = analyze(&["security", "--offline=true", "--threshold=25", "./nacld.service"]);
    assert!(!good, "{said}");
}

#[test]
fn maintainer_scripts_are_shell() {
    for name in ["postinst", "prerm", "postrm"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/debian").join(name);
        let output = Command::new("sh").arg("-n").arg(&file).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_container_runs_what_nacld_takes() {
    let text = packaging("Containerfile");
    let words = |key: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
        serde_json::from_str(line).unwrap()
    };
    assert_eq!(words("ENTRYPOINT "), ["/usr/bin/nacld"]);
    let command = words("CMD ");
    takes(&command.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(text.contains("ENV NACLD_LOG_FORMAT=json\n"));
    for capability in ["BPF", "NET_ADMIN", "PERFMON"] {
        assert!(text.contains(&format!("--cap-add {capability}")), "{capability}");
    }
    // What is copied is what the package has: it is unpacked there.
    for place in text.lines().filter_map(|line| line.strip_prefix("COPY --from=build /out/")) {
        let (from, to) = place.split_once(' ').unwrap();
        assert_eq!(format!("/{from}"), to);
        assert!(["usr/bin/nacld", "usr/share/doc/nacld", "etc/nacld/policy.toml"].contains(&from), "{from}");
    }
}

fn strings(yaml: &Yaml) -> Vec<&str> {
    yaml.as_vec().unwrap_or_else(|| panic!("{yaml:?}")).iter().map(|item| item.as_str().unwrap()).collect()
}

#[test]
fn the_daemon_set_says_what_the_page_says_of_it() {
    let documents = YamlLoader::load_from_str(&packaging("kubernetes.yaml")).unwrap();
    let kind = |kind: &str| {
        documents.iter().find(|one| one["kind"].as_str() == Some(kind)).unwrap_or_else(|| panic!("no {kind}"))
    };
    let set = kind("DaemonSet");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["hostNetwork"].as_bool(), Some(true));
    assert_eq!(set["spec"]["selector"]["matchLabels"], set["spec"]["template"]["metadata"]["labels"]);
    let container = &pod["containers"][0];
    takes(&strings(&container["args"]));
    assert!(strings(&container["args"]).contains(&"--follow"), "or a ConfigMap that changes is never read");
    let rights = &container["securityContext"];
    assert_eq!(rights["privileged"].as_bool(), Some(false));
    assert_eq!(rights["readOnlyRootFilesystem"].as_bool(), Some(true));
    assert_eq!(rights["allowPrivilegeEscalation"].as_bool(), Some(false));
    assert_eq!(strings(&rights["capabilities"]["drop"]), ["ALL"]);
    assert_eq!(strings(&rights["capabilities"]["add"]), ["BPF", "NET_ADMIN", "PERFMON"]);
    for probe in ["startupProbe", "livenessProbe"] {
        let command = strings(&container[probe]["exec"]["command"]);
        assert_eq!(command[0], "/usr/bin/nacld");
        takes(&command[1..]);
    }
    // Each mount is of a volume that is there; the policy's is a directory, so that the kubelet can swap it.
    let volumes: Vec<_> =
        pod["volumes"].as_vec().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    let mounts: BTreeMap<_, _> = container["volumeMounts"]
        .as_vec()
        .unwrap()
        .iter()
        .map(|mount| {
            assert!(mount["subPath"].is_badvalue());
            (mount["name"].as_str().unwrap(), mount["mountPath"].as_str().unwrap())
        })
        .collect();
    assert_eq!(mounts.keys().copied().collect::<Vec<_>>(), {
        let mut names = volumes;
        names.sort_unstable();
        names
    });
    assert_eq!(mounts["policy"], "/etc/nacld");
    let state = PathBuf::from(nacl_daemon::service::DEFAULT_STATE);
    assert_eq!((Path::new(mounts["run"]), Path::new(mounts["bpf"])), (&*state, &*state.join("bpf")));

    // The policy inside is one, and is what the mount has.
    let map = kind("ConfigMap");
    assert_eq!(pod["volumes"][0]["configMap"]["name"], map["metadata"]["name"]);
    let policy = map["data"]["policy.toml"].as_str().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), policy).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_nacld")).args(["check", "--deny", "warnings"]).arg(file.path()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(policy.contains("enforce = false"), "the example drops nothing before somebody has looked");
}
