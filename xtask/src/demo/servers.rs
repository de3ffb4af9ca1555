//! The servers on host2 and the clients on host1: real programs.

use std::{
    fs,
    io::{self, Read as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    flows::{Arrival, Outcome, Traffic},
    interrupt,
    process::Process,
    topology::Topology,
};

/// TCP ports of host2.
const WEB: u16 = 80;
const BULK: u16 = 5201;
pub(super) const STATUS_PAGE: u16 = 8080;
const TELNET: u16 = 23;

/// The file that is downloaded and its size in bytes.
const DOWNLOAD: &str = "random.bin";
const DOWNLOAD_SIZE: u64 = 64 << 20;

/// A blocked packet is dropped silently, so its sender can only wait. Several times a round trip here.
const SILENCE: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(40);

/// The servers on host2, and the folder with what they serve.
#[derive(Debug)]
pub(super) struct Servers {
    folder: PathBuf,
    checksum: String,
    _web: Vec<Process>,
    _telnet: TcpListener,
}

impl Servers {
    /// Starts them and waits until they answer.
    pub(super) fn start(topology: &Topology, folder: &Path) -> Result<Self> {
        let site = folder.join("www");
        fs::create_dir(&site).with_context(|| site.display().to_string())?;
        let random = fs::File::open("/dev/urandom").context("/dev/urandom")?;
        let mut file = fs::File::create(site.join(DOWNLOAD)).context("download file")?;
        io::copy(&mut random.take(DOWNLOAD_SIZE), &mut file).context("download file")?;
        fs::write(site.join("status.txt"), "all is well\n").context("status page")?;

        let mut web = Vec::new();
        for port in [WEB, STATUS_PAGE] {
            let mut command = topology.host2.command("/usr/bin/python3");
            command
                .args([
                    "-m",
                    "http.server",
                    "--bind",
                    "::",
                    &port.to_string(),
                    "--directory",
                ])
                .arg(&site);
            web.push(Process::spawn(&mut command, &folder.join(format!("web-{port}")))?);
        }
        // Accepts connections by itself: the kernel completes them up to the backlog.
        let telnet = topology.host2.enter(|| Ok(TcpListener::bind(("::", TELNET))?))?;
        for port in [WEB, STATUS_PAGE, TELNET] {
            let local = SocketAddr::from(([127, 0, 0, 1], port));
            interrupt::wait_until(
                &format!("the server at port {port}"),
                Duration::from_secs(10),
                || {
                    topology
                        .host2
                        .enter(|| Ok(TcpStream::connect_timeout(&local, SILENCE).is_ok()))
                },
            )?;
        }
        let checksum = sha256(&site.join(DOWNLOAD), folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            checksum,
            _web: web,
            _telnet: telnet,
        })
    }

    /// Lets the servers run on after this program.
    pub(super) fn detach(&mut self) {
        self._web.iter_mut().for_each(Process::detach);
    }

    /// Runs one flow. What goes wrong is its outcome, except for a signal.
    pub(super) fn run(&self, topology: &Topology, traffic: Traffic) -> Result<Outcome> {
        let outcome = match traffic {
            Traffic::Ping(to) => self.ping(topology, to),
            Traffic::Tcp { to, reverse } => self.tcp(topology, to, reverse),
            Traffic::Udp(to) => self.udp(topology, to),
            Traffic::Download(from) => self.download(topology, from),
            Traffic::StatusPage(from) => self.status_page(topology, from),
            Traffic::Telnet(to) => telnet(topology, to),
        };
        interrupt::check()?;
        Ok(outcome.unwrap_or_else(|error| {
            // The last line holds the program's own words.
            let text = format!("{error:#}");
            Outcome::new(Arrival::Faulty, text.lines().last().unwrap_or_default())
        }))
    }

    fn ping(&self, topology: &Topology, to: &str) -> Result<Outcome> {
        let mut command = topology.host1.command("ping");
        command.args(["-n", "-q", "-c", "10", "-i", "0.02", "-W", "2", to]);
        let mut process = Process::spawn(&mut command, &self.folder.join("ping"))?;
        process.wait(PATIENCE)?;
        let output = process.output();
        let summary = output
            .lines()
            .find(|line| line.contains("packets transmitted"))
            .with_context(|| process.last_words())?;
        let received = summary
            .split(", ")
            .nth(1)
            .and_then(|part| part.split(' ').next())
            .unwrap_or("0");
        let arrival = match received {
            "10" => Arrival::Complete,
            "0" => Arrival::Silence,
            _ => Arrival::Faulty,
        };
        Ok(Outcome::new(arrival, format!("{received} of 10 answered")))
    }

    fn tcp(&self, topology: &Topology, to: &str, reverse: bool) -> Result<Outcome> {
        let mut arguments = vec!["-n", "32M"];
        if reverse {
            arguments.push("-R");
        }
        let result = self.iperf(topology, to, &arguments)?;
        let received = &result["end"]["sum_received"];
        let bytes = received["bytes"].as_u64().context("iperf3 counted no bytes")?;
        // The receiver stops counting when the sender is done, with the last bytes still on their way.
        let mut outcome = Outcome::of(bytes >= 16 << 20, format!("{} MiB arrived", bytes >> 20));
        outcome.gbit = gbit(received);
        Ok(outcome)
    }

    fn udp(&self, topology: &Topology, to: &str) -> Result<Outcome> {
        let before = topology.host2.enter(overruns)?;
        let result = self.iperf(topology, to, &["-u", "-b", "100M", "-l", "1200", "-n", "6M"])?;
        let overrun = topology.host2.enter(overruns)? - before;
        let sum = &result["end"]["sum"];
        let count = |key: &str| {
            sum[key]
                .as_u64()
                .with_context(|| format!("iperf3 reported no {key}"))
        };
        let (packets, lost) = (count("packets")?, count("lost_packets")?);
        // What found iperf3's socket full did reach host2; on a busy machine that happens without any gateway.
        let missing = lost.saturating_sub(overrun);
        let complete = packets > 0 && missing * 100 <= packets;
        let mut outcome = Outcome::of(complete, format!("{} of {packets} arrived", packets - missing));
        outcome.gbit = gbit(sum);
        Ok(outcome)
    }

    /// Bits per second of one TCP stream that runs for `seconds`, host1 to host2, in 10^9.
    pub(super) fn speed(&self, topology: &Topology, to: &str, seconds: u32) -> Result<f64> {
        let result = self.iperf(topology, to, &["-t", &seconds.to_string(), "-O", "1"])?;
        gbit(&result["end"]["sum_received"]).context("iperf3 measured nothing")
    }

    fn iperf(&self, topology: &Topology, to: &str, arguments: &[&str]) -> Result<Value> {
        let port = BULK.to_string();
        let mut server = topology.host2.command("iperf3");
        // For one test: the next one could come before the server is ready again.
        server.args(["-s", "-1", "--forceflush", "-p", &port]);
        let mut server = Process::spawn(&mut server, &self.folder.join("iperf-server"))?;
        server.wait_for_text("Server listening", Duration::from_secs(5))?;
        let mut client = topology.host1.command("iperf3");
        client
            .args(["-c", to, "-p", &port, "-J", "--connect-timeout", "3000"])
            .args(arguments);
        let mut client = Process::spawn(&mut client, &self.folder.join("iperf-client"))?;
        let status = client.wait(PATIENCE)?;
        let result: Value = serde_json::from_str(&client.output())
            .with_context(|| format!("iperf3 ended with {status}: {}", client.last_words()))?;
        match result["error"].as_str() {
            Some(error) => bail!("iperf3: {error}"),
            None => Ok(result),
        }
    }

    fn download(&self, topology: &Topology, from: &str) -> Result<Outcome> {
        let file = self.folder.join("downloaded");
        let url = format!("http://{}/{DOWNLOAD}", SocketAddr::new(from.parse()?, WEB));
        let speed = self.curl(topology, &url, &file)?;
        let same = sha256(&file, &self.folder)? == self.checksum;
        let mut outcome = Outcome::of(same, if same { "sha256 equal" } else { "sha256 DIFFERS" });
        outcome.gbit = speed.parse::<f64>().ok().map(|bytes| bytes * 8.0 / 1e9);
        Ok(outcome)
    }

    fn status_page(&self, topology: &Topology, from: &str) -> Result<Outcome> {
        let file = self.folder.join("status-page");
        let url = format!(
            "http://{}/status.txt",
            SocketAddr::new(from.parse()?, STATUS_PAGE)
        );
        self.curl(topology, &url, &file)?;
        let same = fs::read(&file).context("status page")? == fs::read(self.folder.join("www/status.txt"))?;
        Ok(Outcome::of(
            same,
            if same { "page arrived" } else { "page DIFFERS" },
        ))
    }

    /// Fetches `url` into `file`; returns the speed in bytes per second, as a text.
    fn curl(&self, topology: &Topology, url: &str, file: &Path) -> Result<String> {
        let mut command = topology.host1.command("curl");
        command
            .args([
                "-q",
                "--globoff",
                "--silent",
                "--show-error",
                "--fail",
                "--noproxy",
                "*",
            ])
            .args([
                "--connect-timeout",
                "3",
                "--max-time",
                "30",
                "--write-out",
                "%{speed_download}",
                "--output",
            ])
            .arg(file)
            .arg(url);
        Process::spawn(&mut command, &self.folder.join("curl"))?.finish(PATIENCE)
    }
}

fn telnet(topology: &Topology, to: &str) -> Result<Outcome> {
    let address = SocketAddr::new(to.parse()?, TELNET);
    let result = topology
        .host1
        .enter(|| Ok(TcpStream::connect_timeout(&address, SILENCE)))?;
    Ok(match result {
        Ok(_) => Outcome::new(Arrival::Complete, "connected"),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Outcome::new(Arrival::Silence, "no answer"),
        Err(error) => Outcome::new(Arrival::Faulty, error.to_string()),
    })
}

/// Datagrams that found their socket full, in the namespace of the calling thread (RFC 4113 has no name for it;
/// Linux calls it RcvbufErrors).
fn overruns() -> Result<u64> {
    let v4 = fs::read_to_string("/proc/thread-self/net/snmp").context("counters of host2")?;
    let mut udp = v4
        .lines()
        .filter(|line| line.starts_with("Udp:"))
        .map(str::split_whitespace);
    let (names, values) = (
        udp.next().context("no UDP counters")?,
        udp.next().context("no UDP counters")?,
    );
    let v4 = names
        .zip(values)
        .find(|(name, _)| *name == "RcvbufErrors")
        .map(|(_, value)| value);
    let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").context("counters of host2")?;
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    [v4, v6]
        .into_iter()
        .map(|value| Ok(value.unwrap_or("0").trim().parse::<u64>()?))
        .sum()
}

fn gbit(sum: &Value) -> Option<f64> {
    sum["bits_per_second"].as_f64().map(|bits| bits / 1e9)
}

fn sha256(file: &Path, folder: &Path) -> Result<String> {
    let mut command = std::process::Command::new("sha256sum");
    command.arg("--").arg(file);
    let line = Process::spawn(&mut command, &folder.join("sha256"))?.finish(PATIENCE)?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}
