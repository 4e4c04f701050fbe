//! The manual page, `packaging/twincached.1`, from the flag tables.
//!
//! Owns the frame around them in roff. `twincached man-page` prints it; a test keeps the packaged
//! copy up to date.

use super::table::{key_title, Flag, Takes};
use super::{magent, memcached, verify};

/// The whole page.
pub fn page() -> String {
    let mut out = String::new();
    out.push_str(&format!(
        ".\\\" From the flag tables: cargo run -- man-page > packaging/twincached.1\n\
         .TH TWINCACHED 1 \"\" \"twincached {}\" \"User Commands\"\n",
        env!("CARGO_PKG_VERSION")
    ));
    out.push_str(HEAD);
    out.push_str(".SH SERVER OPTIONS\n");
    push_flags(&mut out, memcached::FLAGS);
    out.push_str(".SH PROXY OPTIONS\n");
    push_flags(&mut out, magent::FLAGS);
    out.push_str(".SH VERIFY OPTIONS\n");
    push_flags(&mut out, verify::FLAGS);
    out.push_str(TAIL);
    out
}

fn push_flags<D>(out: &mut String, flags: &[Flag<D>]) {
    for flag in flags.iter().filter(|flag| !flag.help.is_empty()) {
        out.push_str(&format!(".TP\n.B {}\n{}\n", escape(&flag.title()), escape(flag.help)));
        if let Takes::Keys(keys) = flag.takes {
            out.push_str(".RS\n");
            for key in keys.iter().filter(|key| !key.help.is_empty()) {
                let title = escape(&key_title(key));
                out.push_str(&format!(".TP\n.B {title}\n{}\n", escape(key.help)));
            }
            out.push_str(".RE\n");
        }
    }
}

/// Hyphens that are typed must stay hyphens, and no line of text may begin as a request.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

const HEAD: &str = r#".SH NAME
twincached \- memcached server with active\-active replication, and memcached proxy
.SH SYNOPSIS
.B twincached
[server options]
.br
.B twincached proxy \-s
.I host\fR[:\fIport\fR]
[proxy options]
.br
.B magent \-s
.I host\fR[:\fIport\fR]
[proxy options]
.br
.B twincached where \-s
.I host\fR[:\fIport\fR]
[proxy options]
.RI [ key " ...]"
.br
.B twincached verify
.I host\fR[:\fIport\fR]
.I host\fR[:\fIport\fR]
[verify options]
.br
.B twincached demo
[\fB\-\-stay\fR]
.SH DESCRIPTION
.B twincached
is a memcached server. Two or more of them, pointed at each other with
.B \-x
and
.BR \-X ,
hold the same data: every node takes reads and writes, a node that dies is survived, and a node that
comes back is filled before it answers its first client. Without
.B \-x
and
.B \-X
it is a plain server and opens no replication port.
.PP
.B twincached proxy
spreads keys over memcached servers, copies writes to backups, and reads from a backup what a server
lost. Called
.BR magent ,
the program is the proxy at once; called
.BR memcached ,
it answers
.B \-V
and
.B \-h
as a memcached does.
.PP
.B twincached where
takes the options of the proxy and prints, a line a key, the key, its server and its backup with
tabs between: what that proxy would do, without connecting to anybody.
Keys are further words (behind
.B \-\-
if they begin with a hyphen), or lines of standard input where there are none.
.PP
.B twincached verify
compares what two or more nodes hold, through their client ports: it asks for digests over ranges of
keys, then for the keys of ranges that differ, names those that differ, and what each node has of
them. What is merely on its way between the nodes is looked at again until it is equal. Nothing is
changed, or marked as used. A node that is no twincached cannot be compared.
.PP
Options may be clustered (\fB\-vv\fR), take their value at once or as the next word (\fB\-p11211\fR,
\fB\-\-port=11211\fR, \fB\-\-port 11211\fR), and long names may be cut short where that is clear.
"#;

const TAIL: &str = r#".SH SIGNALS
.TP
.B SIGTERM, SIGINT
Stop: send peers what is queued, then exit with status 0.
.TP
.B SIGUSR1
Stop when the clients are done with their commands.
.TP
.B SIGHUP
Open the log file again, and read the file of
.B \-Y
again: a bad one leaves the users as they were. The proxy reads the file of
.B \-o servers_file
again.
.SH ENVIRONMENT
.TP
.B MEMCACHED_PORT_FILENAME
A file that the ports in use are written to, one
.B TCP INET: 11211
line each.
.TP
.B MEMCACHED_SASL_PWDB
With
.B \-S
and without
.BR \-Y ,
the file of users.
.SH FILES
The file of
.B \-Y
has one
.I user\fB:\fIpassword
a line, both together at most 254 bytes, and at most 256 users. Nothing in it is encrypted: let only
the server read it.
.PP
The file of
.B \-o servers_file
has a server a line, as
.B \-s
.IR host :\fIport\fR,
.B server
.IR host :\fIport\fR
or the server alone, and a backup as
.B \-b
.IR host :\fIport\fR
or
.B backup
.IR host :\fIport\fR;
what begins with # is a comment. They follow those of the command line. The proxy reads it again on
SIGHUP and within seconds of a change; a file with a wrong line leaves everything as it was, and the
log names the line.
.SH EXIT STATUS
.TP
.B 0
Stopped when told to, or a page was printed.
.BR verify :
all nodes hold the same.
.BR where :
memcached would take every key.
.TP
.B 1, 64
The command line is wrong, root did not say \fB\-u\fR, or the file of
.B \-Y
is no good; one line on standard error says why. Which of the two it is depends on the flag, as in
memcached.
.B verify
exits with 64 there; 1 says that the nodes do not hold the same.
.B where
and the proxy exit with 64 there, and where the servers file is no good; 1 of
.B where
says that memcached would refuse a key.
.TP
.B 67
The user or group is unknown.
.TP
.B 69
.BR verify :
a node cannot be reached, or cannot be compared; one line on standard error for each.
.TP
.B 71
The system refused something at the start: an address in use, a limit.
.SH EXAMPLES
A pair, one line on each host:
.PP
.nf
twincached \-v \-u memcache \-d \-p 11211 \-x b.example.net \-X 11111
twincached \-v \-u memcache \-d \-p 11211 \-x a.example.net \-X 11111
.fi
.PP
Two servers and a backup behind a proxy:
.PP
.nf
twincached proxy \-u nobody \-p 12000 \-s 10.0.0.1 \-s 10.0.0.2 \-b 10.0.0.3
.fi
Whether the pair holds the same:
.PP
.nf
twincached verify a.example.net b.example.net
.fi
.SH SEE ALSO
.BR memcached (1)
"#;
