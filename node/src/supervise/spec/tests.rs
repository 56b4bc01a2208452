use super::*;

fn spec(json: serde_json::Value) -> CommandSpec {
    serde_json::from_value(json).expect("a spec")
}

fn named(name: &str, requires: serde_json::Value) -> CommandSpec {
    spec(serde_json::json!({ "name": name, "command": ["true"], "requires": requires }))
}

fn machine(worker_type: WorkerType, vram_gib: &[u64]) -> Machine {
    Machine {
        worker_type,
        gpus: vram_gib.iter().map(|g| Gpu { name: "a card".to_owned(), memory_bytes: g << 30 }).collect(),
        ram_bytes: 15 << 30,
        cpus: 8,
        labels: [("rack".to_owned(), "7".to_owned())].into(),
        capabilities: [("docker".to_owned(), true), ("privileged".to_owned(), false)].into(),
    }
}

fn words(spec: &CommandSpec, machine: &Machine) -> String {
    match spec.fits(machine) {
        Ok(()) => String::new(),
        Err(unmet) => unmet.iter().map(Unmet::to_string).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn what_a_machine_lacks_is_told_in_words() {
    let (cpu, gpu) = (machine(WorkerType::Cpu, &[]), machine(WorkerType::Gpu, &[8, 24]));
    let table = [
        (serde_json::json!({}), "", ""),
        (serde_json::json!({"gpu": true}), "needs a GPU; this machine has none", ""),
        (serde_json::json!({"vram": "16 GiB"}), "needs a GPU with 16 GiB; this machine has none", ""),
        (
            serde_json::json!({"gpu": 2, "vram": "16 GiB"}),
            "needs 2 GPUs with 16 GiB; this machine has none",
            "needs 2 GPUs with 16 GiB; this machine has 8 GiB, 24 GiB",
        ),
        (serde_json::json!({"gpu": false}), "", "is for machines without a GPU; this machine has 8 GiB, 24 GiB"),
        (serde_json::json!({"ram": "16 GiB", "cpus": 8}), "", ""),
        (
            serde_json::json!({"ram": "32 GiB", "cpus": 9}),
            "needs 32 GiB of memory; this machine has 15 GiB; needs 9 processors; this machine has 8",
            "needs 32 GiB of memory; this machine has 15 GiB; needs 9 processors; this machine has 8",
        ),
        (
            serde_json::json!({"labels": {"rack": "8", "row": "*"}}),
            "needs the label rack=8; this machine has rack=7; needs the label row=*; this machine has none of that name",
            "needs the label rack=8; this machine has rack=7; needs the label row=*; this machine has none of that name",
        ),
        (serde_json::json!({"labels": {"rack": "*"}, "capabilities": ["docker"]}), "", ""),
        (
            serde_json::json!({"capabilities": ["privileged"]}),
            "needs the capability privileged, which this machine does not have",
            "needs the capability privileged, which this machine does not have",
        ),
    ];
    for (requires, on_cpu, on_gpu) in table {
        let spec = named("s", requires.clone());
        assert_eq!(words(&spec, &cpu), on_cpu, "{requires}");
        assert_eq!(words(&spec, &gpu), on_gpu, "{requires}");
    }
}

#[test]
fn a_gpu_that_cannot_be_read_is_there_if_somebody_says_so() {
    let mut machine = machine(WorkerType::Gpu, &[]);
    machine.capabilities.insert("gpu".to_owned(), true);
    assert_eq!(words(&named("s", serde_json::json!({"gpu": true})), &machine), "");
    assert_ne!(words(&named("s", serde_json::json!({"vram": "1 GiB"})), &machine), "", "how much it has is not known");
    assert_ne!(words(&named("s", serde_json::json!({"gpu": 2})), &machine), "");
}

#[test]
fn well_known_names_need_no_requires() {
    let machines = [WorkerType::Gpu, WorkerType::Cpu, WorkerType::Edge].map(|t| machine(t, &[]));
    let fits = |spec: &CommandSpec| machines.each_ref().map(|m| spec.fits(m).is_ok());
    let none = || serde_json::json!({});
    assert_eq!(fits(&named("vllm", none())), [true, false, false]);
    assert_eq!(fits(&named("notes", none())), [true, true, false]);
    assert_eq!(fits(&named("upload", none())), [true, true, true]);
    assert_eq!(fits(&named("vllm", serde_json::json!({"cpus": 1}))), [true, true, true], "who requires says all");
    let mut spec = named("notes", none());
    spec.profile = Some(Profile::Edge);
    assert_eq!(fits(&spec), [false, false, true]);
    assert_eq!(words(&spec, &machines[1]), "is for edge machines; this machine is of the type cpu");
    let by_name = words(&named("vllm", none()), &machines[1]);
    assert!(by_name.contains("is for gpu machines by its name (say profile = \"any\""), "{by_name}");
}

#[test]
fn a_table_of_the_file_is_read_and_unknown_keys_are_refused() {
    let text = r#"
        name = "notes"
        command = "python3 -m http.server {port}"
        requires = { ram = "1 GiB", labels = { rack = "7" } }
        env = { A = "b" }
        memory_max = "256 MiB"
        cpu_max = 0.5
        on_demand = true
        idle_timeout = "10s"
        restart = { min = "100ms" }
    "#;
    let spec: CommandSpec = toml::from_str(text).expect("a spec");
    assert_eq!(spec.check(), Ok(()));
    assert_eq!(spec.command.words(), ["python3", "-m", "http.server", "{port}"]);
    assert_eq!(spec.memory_max, Some(Bytes(256 << 20)));
    assert_eq!((spec.restart.min.0, spec.restart.max.0), (Duration::from_millis(100), BACKOFF_MAX));
    assert_eq!((spec.idle_timeout.0, spec.stop_timeout.0), (Duration::from_secs(10), STOP_TIMEOUT));
    let again: CommandSpec = serde_json::from_value(serde_json::to_value(&spec).expect("JSON")).expect("again");
    assert_eq!(again, spec);
    for (key, said) in [
        ("memry_max = 1", "memory_max"),
        ("requires = { gpus = 1 }", "vram"),
        ("restart = { mim = 1 }", "min"),
        ("port = 70000", "70000"),
        ("command = 3", "command"),
        ("memory_max = \"lots\"", "16 GiB"),
        ("kind = \"grpc\"", "openai"),
    ] {
        let text = if key.starts_with("command") {
            format!("name = \"a\"\n{key}")
        } else {
            format!("name = \"a\"\ncommand = \"true\"\n{key}")
        };
        let error = toml::from_str::<CommandSpec>(&text).expect_err(key).to_string();
        assert!(error.contains(said), "{key}: {error}");
    }
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    let change = |key: &str, value: serde_json::Value| {
        let mut json = serde_json::json!({ "name": "a", "command": ["true"] });
        json[key] = value;
        spec(json).check()
    };
    assert_eq!(change("port", 80.into()), Ok(()));
    assert_eq!(change("url", "http://127.0.0.1:8100/base".into()), Ok(()));
    for (key, value) in [
        ("port", 0.into()),
        ("url", "http://10.0.0.1".into()),
        ("url", "https://127.0.0.1:1".into()),
        ("url", "http://127.0.0.1:1/?a".into()),
        ("url", "rubbish".into()),
        ("health", "ping".into()),
        ("max_concurrency", 0.into()),
        ("memory_max", 512.into()),
        ("cpu_max", 0.0.into()),
        ("cpu_max", (-1).into()),
        ("restart", serde_json::json!({"min": "2s", "max": "1s"})),
        ("restart", serde_json::json!({"crash_loop": 0})),
        ("stop_timeout", "2m".into()),
        ("start_timeout", 0.into()),
        ("env", serde_json::json!({"A=B": "c"})),
        ("env", serde_json::json!({"A": "\u{0}"})),
    ] {
        assert!(change(key, value.clone()).is_err(), "{key} = {value}");
    }
}

#[test]
fn the_schema_names_each_key() {
    let schema = serde_json::to_value(schemars::schema_for!(CommandSpec)).expect("JSON");
    let properties = schema["properties"].as_object().expect("properties");
    for key in ["name", "command", "requires", "memory_max", "restart", "on_demand", "kind"] {
        assert!(properties.contains_key(key), "{key}: {schema:#}");
    }
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["name", "command"]));
}
