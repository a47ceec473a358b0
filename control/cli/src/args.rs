//! The command line: what an operator may type, and the exit codes promised in `--help`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/agent.sock";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  refused: the document or the request is invalid, nothing was changed
  4  the agent cannot be reached
  5  not converged, or not finished, within the time given";

/// The operator's command for Sluice nodes.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Cli {
    /// Options every command understands.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options every command understands.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// UNIX socket of the agent.
    #[arg(long, global = true, env = "SLUICE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Form of what is printed. Default: `table` (for `lab`: `tui` on a terminal, else `table`).
    #[arg(long, short = 'o', global = true, value_enum)]
    pub output: Option<Output>,
}

impl Global {
    /// JSON was asked for.
    pub fn json(&self) -> bool {
        self.output == Some(Output::Json)
    }
}

/// Form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns and sentences.
    #[value(alias = "text")]
    Table,
    /// One JSON document.
    Json,
    /// Full-screen terminal view (`lab` only).
    Tui,
}

/// What to do with a virtual machine.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Run one until it ends (arguments go to `sluice-vmm`): `sluice vm run --kernel vmlinux --console`.
    #[command(disable_help_flag = true)]
    Run(PassThrough),
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the node agent (arguments go to `sluice-agent`).
    #[command(disable_help_flag = true)]
    Run(PassThrough),
    /// Start a caching reverse proxy (arguments go to `sluice-proxy`): `sluice proxy --listen ADDR --to URL`.
    #[command(disable_help_flag = true)]
    Proxy(PassThrough),
    /// Virtual machines.
    Vm {
        /// What to do.
        #[command(subcommand)]
        command: VmCommand,
    },
    /// Start a whole site in network namespaces and drive traffic through it.
    Lab(LabArgs),
    /// Give the agent one or more placement documents.
    Apply(ApplyArgs),
    /// List documents, VIPs, backends, sites, status or events.
    Get(GetArgs),
    /// Show all that is known of one document, VIP, backend, pool or site.
    Describe(DescribeArgs),
    /// Show what applying a document would change.
    Diff(FileArgs),
    /// Take a backend or member out of rotation; what it serves now goes on.
    Drain(DrainArgs),
    /// Bring a drained backend or member back.
    Undrain(DrainArgs),
    /// Remove a document by name.
    Delete(DeleteArgs),
    /// Counters of the balancer and of the proxy.
    Stats(StatsArgs),
    /// Where would this packet or URL go, and why.
    Trace(TraceArgs),
    /// Forget stored responses.
    Purge(PurgeArgs),
    /// Replace the running proxy program; connections are kept.
    UpgradeProxy,
    /// Look for what keeps packets from flowing, in plain words and with the fix.
    Doctor(DoctorArgs),
    /// Print a completion script.
    Completions {
        /// Shell to write it for.
        shell: clap_complete::Shell,
    },
    /// Let packets that a peer transmits from XDP into these veth interfaces: an XDP program that passes all.
    VethPass(VethPassArgs),
}

/// Arguments handed on as they are.
#[derive(Clone, Debug, Args)]
pub struct PassThrough {
    /// Arguments of the program started.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}

/// Which documents.
#[derive(Clone, Debug, Args)]
pub struct FileArgs {
    /// File, directory of `*.yaml`, `*.yml`, `*.json`, or `-` for standard input.
    #[arg(short = 'f', long = "file", required = true)]
    pub files: Vec<PathBuf>,
}

/// `sluice apply`.
#[derive(Clone, Debug, Args)]
pub struct ApplyArgs {
    /// Which documents.
    #[command(flatten)]
    pub files: FileArgs,
    /// Check only, change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Return when the node has carried the documents out.
    #[arg(long)]
    pub wait: bool,
    /// How long `--wait` waits, seconds.
    #[arg(long, default_value_t = 30)]
    pub timeout: u64,
}

/// What `get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GetKind {
    /// Placement documents and their generations.
    #[value(alias = "document")]
    Documents,
    /// Virtual IPs.
    #[value(alias = "vip")]
    Vips,
    /// Backends and their share of each VIP.
    #[value(alias = "backend")]
    Backends,
    /// Hosts the proxy answers for.
    #[value(alias = "site")]
    Sites,
    /// Everything the node reports.
    Status,
    /// Latest events.
    #[value(alias = "event")]
    Events,
}

/// `sluice get`.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// What to list.
    #[arg(value_enum, default_value_t = GetKind::Status)]
    pub kind: GetKind,
}

/// Kinds that have a name of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DescribeKind {
    /// A placement document.
    Document,
    /// A virtual IP.
    Vip,
    /// A backend, in all pools that name it.
    Backend,
    /// A pool.
    Pool,
    /// A cache group.
    Group,
    /// A site, by host.
    Site,
}

/// `sluice describe`.
#[derive(Clone, Debug, Args)]
pub struct DescribeArgs {
    /// Kind of the thing.
    #[arg(value_enum)]
    pub kind: DescribeKind,
    /// Its name.
    pub name: String,
}

/// What can be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DrainKind {
    /// A backend by name, in every pool, or `POOL/NAME`.
    Backend,
    /// A member of a cache group, as this agent's proxy sees it; on the member itself its proxy drains.
    Member,
    /// Both, everywhere this node name appears.
    Node,
}

/// `sluice drain`, `sluice undrain`.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// Kind of the thing.
    #[arg(value_enum)]
    pub kind: DrainKind,
    /// Its name.
    pub name: String,
    /// How long its flows may stay (`60s`, `5m`, `500ms`); then they move to other backends. Without it they stay
    /// until they end.
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    pub deadline: Option<u64>,
}

/// A time with its unit, in ms.
fn duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a number with ms, s, m or h".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|e| format!("{digits:?}: {e}"))?;
    number.checked_mul(factor).ok_or_else(|| "too long".to_owned())
}

/// `sluice delete`.
#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    /// Name of the document.
    pub name: String,
    /// Check only, change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `sluice stats`.
#[derive(Clone, Debug, Args)]
pub struct StatsArgs {
    /// Print again every second, with rates.
    #[arg(long, short = 'w')]
    pub watch: bool,
}

/// `sluice trace`.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct TraceArgs {
    /// `tcp 10.7.0.2:4000 10.9.0.1:80`, protocol `tcp` or `udp`, source, destination.
    #[arg(long)]
    pub packet: Option<String>,
    /// `http://host/path`.
    pub url: Option<String>,
}

/// `sluice purge`.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PurgeArgs {
    /// One URL.
    pub url: Option<String>,
    /// A whole host.
    #[arg(long)]
    pub host: Option<String>,
    /// Everything.
    #[arg(long)]
    pub all: bool,
}

/// `sluice doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Only these interfaces; default: every interface that is up.
    #[arg(long)]
    pub iface: Vec<String>,
    /// Named network namespaces to look into as well; `all` for every one. The machine's own is always looked at
    /// unless `--only-netns` is given.
    #[arg(long)]
    pub netns: Vec<String>,
    /// Look only into the namespaces named with `--netns`.
    #[arg(long, requires = "netns")]
    pub only_netns: bool,
    /// The interfaces are meant to run XDP although no program is attached yet.
    #[arg(long)]
    pub expect_xdp: bool,
    /// Packets are meant to be encapsulated (`ipip` VIPs): a short MTU is a problem, not a warning.
    #[arg(long)]
    pub expect_ipip: bool,
    /// Apply the fixes, then look again.
    #[arg(long)]
    pub fix: bool,
}

/// `sluice veth-pass`.
#[derive(Clone, Debug, Args)]
pub struct VethPassArgs {
    /// Interfaces to attach to.
    #[arg(long, required = true)]
    pub iface: Vec<String>,
    /// Namespace they are in.
    #[arg(long)]
    pub netns: Option<String>,
    /// Detach instead.
    #[arg(long)]
    pub detach: bool,
}

/// Failures the lab can bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum ScenarioName {
    /// Kill one node: its proxy, its agent and its link.
    KillNode,
    /// Add a node that was not there.
    AddNode,
    /// Drain a node and bring it back.
    DrainNode,
    /// Kill and restart the balancer's agent.
    RestartAgent,
    /// Replace the proxy program of a node while connections live.
    UpgradeProxy,
    /// Write a placement that must be refused.
    BrokenPlacement,
    /// More flows than the flow table holds.
    FillFlowTable,
    /// Cut the origin off and bring it back.
    CutOrigin,
    /// One after the other.
    All,
}

/// `sluice lab`.
#[derive(Clone, Debug, Args)]
pub struct LabArgs {
    /// Stop after this many seconds; default: run until Ctrl-C.
    #[arg(long)]
    pub duration: Option<u64>,
    /// Start no load; stay up for your own requests and print the commands for them.
    #[arg(long)]
    pub no_load: bool,
    /// HTTP requests a second, over all VIPs.
    #[arg(long, default_value_t = 2000)]
    pub rate: u64,
    /// Proxy nodes behind the balancer.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub nodes: u8,
    /// Seed of the load.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Name of the instance: namespaces `sluice-NAME-*`, run directory `/run/sluice-NAME`.
    #[arg(long, default_value = "lab")]
    pub prefix: String,
    /// Bring this failure about while serving, report what clients saw, and stop.
    #[arg(long, value_enum)]
    pub scenario: Option<ScenarioName>,
    /// Only remove what an earlier instance of this name left behind.
    #[arg(long)]
    pub clean: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn proxy_arguments_pass_through_untouched() {
        let cli =
            Cli::try_parse_from(["sluice", "proxy", "--listen", "127.0.0.1:1", "--to", "http://x", "--help"])
                .unwrap();
        let Command::Proxy(p) = cli.command else { panic!("not proxy") };
        assert_eq!(p.args, ["--listen", "127.0.0.1:1", "--to", "http://x", "--help"]);
    }

    #[test]
    fn trace_wants_exactly_one_of_packet_and_url() {
        assert!(Cli::try_parse_from(["sluice", "trace"]).is_err());
        assert!(Cli::try_parse_from(["sluice", "trace", "--packet", "tcp a b", "http://x"]).is_err());
        assert!(Cli::try_parse_from(["sluice", "trace", "http://x/"]).is_ok());
    }
}
