//! How each service is started: the settings of `deploy/` with this machine's ports and folders.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    Ports,
    service::{Probe, Recipe},
    software::Software,
};

/// The object store's keys, and its bucket: on loopback, for nobody else.
pub const ACCESS_KEY: &str = "lakeward";
pub const SECRET_KEY: &str = "lakeward-secret";

/// One more listener of Kafka: with TLS, for one user.
#[derive(Debug, Clone)]
pub struct KafkaAccess {
    /// Of 127.0.0.1.
    pub port: u16,
    /// The broker's key and its certificate, PEM.
    pub key_and_certificate: PathBuf,
    /// By SCRAM-SHA-512.
    pub user: String,
    pub password: String,
}

pub(crate) fn kafka(
    software: &Software,
    ports: &Ports,
    folder: &Path,
    access: Option<&KafkaAccess>,
) -> Result<Recipe> {
    let folder = folder.join("kafka");
    let (port, controller) = (ports.kafka, ports.controller);
    let (mut listener, mut protection) = (String::new(), String::new());
    if let Some(access) = access {
        listener = format!(",OUTSIDE://127.0.0.1:{}", access.port);
        protection = format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,OUTSIDE:SASL_SSL\n\
             listener.name.outside.ssl.keystore.type=PEM\n\
             listener.name.outside.ssl.keystore.location={}\n\
             listener.name.outside.sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.outside.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n",
            access.key_and_certificate.display()
        );
    }
    let settings = format!(
        "listeners=PLAINTEXT://127.0.0.1:{port}{listener},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}{listener}\n\
         {protection}\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         log.dirs={}\n",
        folder.join("data").display()
    );
    let properties = write_settings(software, "server.properties", &folder, &settings)?;
    if !folder.join("data/meta.properties").exists() {
        let cluster = uuid::Uuid::new_v4().simple().to_string();
        let mut format = Command::new(&software.java);
        format.args(["-Xmx128m", "-cp"]).arg(class_path(software)).arg("kafka.tools.StorageTool");
        format.args(["format", "-t", &cluster[..22], "-c"]).arg(&properties);
        if let Some(KafkaAccess { user, password, .. }) = access {
            format.arg("--add-scram").arg(format!("SCRAM-SHA-512=[name={user},password={password}]"));
        }
        let output = format.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "could not prepare Kafka's folder:\n{said}");
    }
    let probe = Probe::Port(port);
    Ok(java(software, "kafka", "256m", "kafka.Kafka", properties, folder, probe))
}

pub(crate) fn connect(software: &Software, ports: &Ports, folder: &Path) -> Result<Recipe> {
    let folder = folder.join("connect");
    let settings = format!(
        "bootstrap.servers=127.0.0.1:{}\nlisteners=http://127.0.0.1:{}\nplugin.path={}\n",
        ports.kafka,
        ports.connect,
        software.kafka.join("plugins").display()
    );
    let properties = write_settings(software, "connect.properties", &folder, &settings)?;
    let probe = Probe::Url(format!("http://127.0.0.1:{}/connectors", ports.connect));
    let class = "org.apache.kafka.connect.cli.ConnectDistributed";
    Ok(java(software, "connect", "384m", class, properties, folder, probe))
}

pub(crate) fn minio(software: &Software, ports: &Ports, folder: &Path) -> Recipe {
    let folder = folder.join("minio");
    let address = format!("127.0.0.1:{}", ports.minio);
    Recipe {
        name: "minio",
        program: software.minio.clone(),
        arguments: ["server", "data", "--quiet", "--address", &address].map(Into::into).to_vec(),
        environment: vec![
            ("MINIO_ROOT_USER", ACCESS_KEY.to_owned()),
            ("MINIO_ROOT_PASSWORD", SECRET_KEY.to_owned()),
            ("MINIO_BROWSER", "off".to_owned()),
            ("GOMEMLIMIT", "256MiB".to_owned()),
        ],
        folder,
        probe: Probe::Url(format!("http://{address}/minio/health/ready")),
    }
}

/// What it is told it keeps in files: messages say nothing without their schemas.
pub(crate) fn registry(software: &Software, program: &Path, port: u16, folder: &Path) -> Result<Recipe> {
    let folder = folder.join("registry");
    let files =
        fs::read_dir(program)?.map(|file| file.map(|file| file.path())).collect::<Result<Vec<_>, _>>()?;
    // Its version is in its name.
    let runner = files.into_iter().find(|file| file.to_string_lossy().ends_with("-runner.jar"));
    let runner = runner.with_context(|| format!("{} is without a program", program.display()))?;
    let mut arguments: Vec<OsString> =
        ["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar"]
            .map(Into::into)
            .to_vec();
    arguments.push(runner.into());
    Ok(Recipe {
        name: "registry",
        program: software.java.clone(),
        arguments,
        environment: vec![
            ("QUARKUS_HTTP_HOST", "127.0.0.1".to_owned()),
            ("HTTP_PORT", port.to_string()),
            ("REGISTRY_DATASOURCE_URL", format!("jdbc:h2:file:{}", folder.join("data").display())),
        ],
        folder,
        probe: Probe::Url(format!("http://127.0.0.1:{port}/health/ready")),
    })
}

/// What a Redis asks of whoever connects.
#[derive(Debug, Clone)]
pub struct RedisAccess {
    /// The server's certificate and its key, PEM.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The one user, as the directive `user` has it: `name on >password ~keys +commands`.
    pub user: String,
}

pub(crate) fn redis(program: PathBuf, port: u16, folder: &Path, access: Option<&RedisAccess>) -> Recipe {
    let number = port.to_string();
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |given: &[&str]| arguments.extend(given.iter().map(Into::into));
    add(&["--bind", "127.0.0.1", "--dir", ".", "--save", "60", "1", "--appendonly", "no"]);
    // A view's value is longer than the usual limit of small hashes, which take half the memory.
    add(&["--hash-max-listpack-value", "1024"]);
    match access {
        None => add(&["--port", &number]),
        Some(RedisAccess { certificate, key, user }) => {
            add(&["--port", "0", "--tls-port", &number, "--tls-auth-clients", "no"]);
            add(&["--user", "default", "off", "--user"]);
            add(&user.split(' ').collect::<Vec<_>>());
            arguments.extend(["--tls-cert-file".into(), certificate.into()]);
            arguments.extend(["--tls-key-file".into(), key.into()]);
        }
    }
    Recipe {
        name: "redis",
        program,
        arguments,
        environment: Vec::new(),
        folder: folder.join("redis"),
        probe: Probe::Port(port),
    }
}

fn java(
    software: &Software,
    name: &'static str,
    memory: &str,
    class: &str,
    properties: PathBuf,
    folder: PathBuf,
    probe: Probe,
) -> Recipe {
    let log4j = software.deploy.join("kafka/log4j2.yaml");
    let mut arguments = vec![
        "-Xms64m".into(),
        format!("-Xmx{memory}").into(),
        // They start and stop often, and are never large.
        "-XX:+UseSerialGC".into(),
        "-XX:TieredStopAtLevel=1".into(),
        format!("-Dlog4j2.configurationFile={}", log4j.display()).into(),
        "-cp".into(),
        class_path(software).into(),
        class.into(),
    ];
    arguments.push(properties.into());
    Recipe { name, program: software.java.clone(), arguments, environment: Vec::new(), folder, probe }
}

fn class_path(software: &Software) -> PathBuf {
    software.kafka.join("libs/*")
}

/// The shared settings, then this machine's: of two lines for one key the last one holds.
fn write_settings(software: &Software, name: &str, folder: &Path, settings: &str) -> Result<PathBuf> {
    let shared = software.deploy.join("kafka").join(name);
    let shared = fs::read_to_string(&shared).with_context(|| format!("read {}", shared.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(name);
    fs::write(&path, format!("{shared}\n{settings}")).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
