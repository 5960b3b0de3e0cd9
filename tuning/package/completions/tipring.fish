# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_tipring_global_optspecs
    string join \n h/help V/version
end

function __fish_tipring_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_tipring_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_tipring_using_subcommand
    set -l cmd (__fish_tipring_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c tipring -n "__fish_tipring_needs_command" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_needs_command" -s V -l version -d 'Print version'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "serve" -d 'Serve in the foreground until TERM (after the last call) or INT (at once)'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "check" -d 'Name every fault of a configuration file'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "demo" -d 'Serve on embedded defaults in a new folder, with fifty emulated phones that call each other and an account for yours'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "status" -d 'What runs, in which state'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "drain" -d 'Answer new calls 503, keep those that are up'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "undrain" -d 'Take new calls again'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "reload" -d 'Read the configuration again, open log files anew'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "calls" -d 'The calls that are up'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "hangup" -d 'End a call'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "trace" -d 'Why this call or phone did what it did'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "phlem" -d 'The phone emulator: from one phone to thousands, against any SIP server'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "tape" -d 'What the engine wrote down of calls, read without the side process'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "token" -d 'API tokens'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "tune" -d 'The machine against its hardware profile, and what would make it right'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "plan" -d 'What `serve` starts by itself'
complete -c tipring -n "__fish_tipring_needs_command" -f -a "engine"
complete -c tipring -n "__fish_tipring_needs_command" -f -a "side"
complete -c tipring -n "__fish_tipring_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand serve" -l config -d 'Without it no file is read and every key has its default' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand serve" -l with-parent -d 'Die with the process that started it'
complete -c tipring -n "__fish_tipring_using_subcommand serve" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand check" -l config -r -F
complete -c tipring -n "__fish_tipring_using_subcommand check" -l effective -d 'Print each value that holds and where it comes from: the file, the hardware profile, or the default'
complete -c tipring -n "__fish_tipring_using_subcommand check" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand demo" -l for -d 'End after this time, such as "30s"' -r
complete -c tipring -n "__fish_tipring_using_subcommand demo" -l listen -d 'The address that SIP, media and the API listen on' -r
complete -c tipring -n "__fish_tipring_using_subcommand demo" -l keep -d 'Keep the folder with configuration, log and recordings; else it is removed at the end, unless something failed'
complete -c tipring -n "__fish_tipring_using_subcommand demo" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand status" -l config -d 'The configuration file that it serves; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand status" -l run -d 'The folder of its control socket ([node] run)' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand status" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand status" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand drain" -l config -d 'The configuration file that it serves; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand drain" -l run -d 'The folder of its control socket ([node] run)' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand drain" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand drain" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand undrain" -l config -d 'The configuration file that it serves; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand undrain" -l run -d 'The folder of its control socket ([node] run)' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand undrain" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand undrain" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand reload" -l config -d 'The configuration file that it serves; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand reload" -l run -d 'The folder of its control socket ([node] run)' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand reload" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand reload" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand calls" -l config -d 'The configuration file that it serves; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand calls" -l run -d 'The folder of its control socket ([node] run)' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand calls" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand calls" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand hangup" -l config -d 'The configuration file that it serves; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand hangup" -l run -d 'The folder of its control socket ([node] run)' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand hangup" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand hangup" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand trace" -l config -d 'The configuration file that it serves; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand trace" -l run -d 'The folder of its control socket ([node] run)' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand trace" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand trace" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and not __fish_seen_subcommand_from run agent null scenarios check help" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and not __fish_seen_subcommand_from run agent null scenarios check help" -f -a "run" -d 'Run a scenario: phones register, call, talk and are counted; exit 1 if an expectation is not met'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and not __fish_seen_subcommand_from run agent null scenarios check help" -f -a "agent" -d 'Take part in runs of a fleet: runs its share of whatever `phlem run --nats` deals out'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and not __fish_seen_subcommand_from run agent null scenarios check help" -f -a "null" -d 'Serve SIP as little as can be, so that an emulator alone can be measured: takes any credentials, keeps no promises'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and not __fish_seen_subcommand_from run agent null scenarios check help" -f -a "scenarios" -d 'Name the scenarios that come with the program, or print one to start a file of your own from'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and not __fish_seen_subcommand_from run agent null scenarios check help" -f -a "check" -d 'Read stereo recordings of emulated calls, WAV of 8000 samples a second: names every frame that is missing, double, misplaced or another\'s; exit 1 if one is'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and not __fish_seen_subcommand_from run agent null scenarios check help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l server -d 'The SIP server to test, host:port, instead of the scenario\'s' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l seed -d 'The same seed gives the same phones, delays and calls' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l local -d 'The address that phones bind to; default: the one from which the server is reached' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l cpus -d 'CPUs to run on, a thread each, such as "0,2-5"; default: one thread for few phones, else all' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l record -d 'Write what every leg heard as WAV files into this folder' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l duration -d 'Calls begin for so long instead of the scenario\'s duration; what happens to phones moves with it' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l json -d 'Write figures and course of the run as JSON into this file' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l report -d 'Write a report with plots into this file: HTML that needs nothing else' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l nats -d 'Run on the agents that this NATS server knows, such as nats://10.0.0.1:4222' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l fleet -d 'Which fleet, where several share a NATS server' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l agents -d 'How many agents have to take part; default: all that answer in time' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l wait -d 'How long agents may take to answer' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -l ceiling -d 'Measure first, in half a minute, what the emulator can do by itself on these CPUs'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from run" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from agent" -l nats -d 'The NATS server of the fleet' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from agent" -l fleet -d 'Which fleet, where several share a NATS server' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from agent" -l id -d 'Unique in the fleet; default: the host\'s name' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from agent" -l capacity -d 'Its part of a run against the other agents\'; default: its CPUs' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from agent" -l local -d 'The address that phones bind to; default: the one from which the server is reached' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from agent" -l cpus -d 'CPUs to run on, a thread each, such as "0,2-5"' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from agent" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from null" -l listen -d 'The UDP address to serve' -r
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from null" -l deaf -d 'This party\'s audio goes nowhere: shows what a scenario makes of one-way audio' -r -f -a "caller\t''
callee\t''"
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from null" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from scenarios" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from help" -f -a "run" -d 'Run a scenario: phones register, call, talk and are counted; exit 1 if an expectation is not met'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from help" -f -a "agent" -d 'Take part in runs of a fleet: runs its share of whatever `phlem run --nats` deals out'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from help" -f -a "null" -d 'Serve SIP as little as can be, so that an emulator alone can be measured: takes any credentials, keeps no promises'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from help" -f -a "scenarios" -d 'Name the scenarios that come with the program, or print one to start a file of your own from'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from help" -f -a "check" -d 'Read stereo recordings of emulated calls, WAV of 8000 samples a second: names every frame that is missing, double, misplaced or another\'s; exit 1 if one is'
complete -c tipring -n "__fish_tipring_using_subcommand phlem; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and not __fish_seen_subcommand_from inspect verify export help" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and not __fish_seen_subcommand_from inspect verify export help" -f -a "inspect" -d 'Which segments are there, and what is in them'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and not __fish_seen_subcommand_from inspect verify export help" -f -a "verify" -d 'Whether every block is whole and every recording complete; exit 1 if not'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and not __fish_seen_subcommand_from inspect verify export help" -f -a "export" -d 'The packets of one call as a pcap file'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and not __fish_seen_subcommand_from inspect verify export help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from inspect" -l config -d 'The configuration file of the node; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from inspect" -l data -d 'The node\'s data folder' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from inspect" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from verify" -l config -d 'The configuration file of the node; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from verify" -l data -d 'The node\'s data folder' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from verify" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from export" -l out -d 'Where to write it' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from export" -l config -d 'The configuration file of the node; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from export" -l data -d 'The node\'s data folder' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from export" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from help" -f -a "inspect" -d 'Which segments are there, and what is in them'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from help" -f -a "verify" -d 'Whether every block is whole and every recording complete; exit 1 if not'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from help" -f -a "export" -d 'The packets of one call as a pcap file'
complete -c tipring -n "__fish_tipring_using_subcommand tape; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand token; and not __fish_seen_subcommand_from add list revoke help" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand token; and not __fish_seen_subcommand_from add list revoke help" -f -a "add" -d 'Make a token and print it; it cannot be shown again'
complete -c tipring -n "__fish_tipring_using_subcommand token; and not __fish_seen_subcommand_from add list revoke help" -f -a "list" -d 'All tokens, without what they are'
complete -c tipring -n "__fish_tipring_using_subcommand token; and not __fish_seen_subcommand_from add list revoke help" -f -a "revoke" -d 'Make a token worthless'
complete -c tipring -n "__fish_tipring_using_subcommand token; and not __fish_seen_subcommand_from add list revoke help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from add" -l role -d 'admin, operator, read or recordings' -r
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from add" -l tenant -d 'Only this tenant; may be given several times. Default: all' -r
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from add" -l expires -d 'An RFC 3339 time, such as 2027-01-01T00:00:00Z. Default: never' -r
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from add" -l config -d 'The node\'s configuration file; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from add" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from list" -l config -d 'The node\'s configuration file; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from list" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from revoke" -l config -d 'The node\'s configuration file; default: the folder tipring-data here' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from revoke" -l json -d 'JSON for programs'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from revoke" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "add" -d 'Make a token and print it; it cannot be shown again'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "list" -d 'All tokens, without what they are'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "revoke" -d 'Make a token worthless'
complete -c tipring -n "__fish_tipring_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l record -d 'Copy what the checks read of this machine into a new folder' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l profile -d 'A shipped profile by name, "auto", or a file; default: that of the configuration, else "auto"' -r
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l config -d 'The node\'s configuration file: its RTP ports and its data folder' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l output -d 'With --detect: write into this file, unless it is there' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l root -d 'A tree that --record wrote stands for the machine' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l check -d 'Say what is right and what is not (the default)'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l dry-run -d 'Say what --apply would do'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l render-script -d 'Print a shell script that does the same, to be read before it is run'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l apply -d 'Set what is not right and look again; needs root'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l detect -d 'Print a profile of this machine'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -l json -d 'JSON for programs (with --check and --apply)'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -f -a "disk" -d 'Try a folder\'s disk the way the tape writes; exit 1 if it is too slow'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and not __fish_seen_subcommand_from disk help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and __fish_seen_subcommand_from disk" -l for -d 'How long, at most; half of it beside another writer' -r
complete -c tipring -n "__fish_tipring_using_subcommand tune; and __fish_seen_subcommand_from disk" -l mib -d 'MiB of each of the two files that it writes over and over' -r
complete -c tipring -n "__fish_tipring_using_subcommand tune; and __fish_seen_subcommand_from disk" -l config -d 'The node\'s configuration file: its RTP ports and `tape.stall`' -r -F
complete -c tipring -n "__fish_tipring_using_subcommand tune; and __fish_seen_subcommand_from disk" -l json
complete -c tipring -n "__fish_tipring_using_subcommand tune; and __fish_seen_subcommand_from disk" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and __fish_seen_subcommand_from help" -f -a "disk" -d 'Try a folder\'s disk the way the tape writes; exit 1 if it is too slow'
complete -c tipring -n "__fish_tipring_using_subcommand tune; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand plan" -l config -r -F
complete -c tipring -n "__fish_tipring_using_subcommand plan" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand engine" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand side" -s h -l help -d 'Print help'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "serve" -d 'Serve in the foreground until TERM (after the last call) or INT (at once)'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "check" -d 'Name every fault of a configuration file'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "demo" -d 'Serve on embedded defaults in a new folder, with fifty emulated phones that call each other and an account for yours'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "status" -d 'What runs, in which state'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "drain" -d 'Answer new calls 503, keep those that are up'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "undrain" -d 'Take new calls again'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "reload" -d 'Read the configuration again, open log files anew'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "calls" -d 'The calls that are up'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "hangup" -d 'End a call'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "trace" -d 'Why this call or phone did what it did'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "phlem" -d 'The phone emulator: from one phone to thousands, against any SIP server'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "tape" -d 'What the engine wrote down of calls, read without the side process'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "token" -d 'API tokens'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "tune" -d 'The machine against its hardware profile, and what would make it right'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "plan" -d 'What `serve` starts by itself'
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "engine"
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "side"
complete -c tipring -n "__fish_tipring_using_subcommand help; and not __fish_seen_subcommand_from serve check demo status drain undrain reload calls hangup trace phlem tape token tune plan engine side help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from phlem" -f -a "run" -d 'Run a scenario: phones register, call, talk and are counted; exit 1 if an expectation is not met'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from phlem" -f -a "agent" -d 'Take part in runs of a fleet: runs its share of whatever `phlem run --nats` deals out'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from phlem" -f -a "null" -d 'Serve SIP as little as can be, so that an emulator alone can be measured: takes any credentials, keeps no promises'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from phlem" -f -a "scenarios" -d 'Name the scenarios that come with the program, or print one to start a file of your own from'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from phlem" -f -a "check" -d 'Read stereo recordings of emulated calls, WAV of 8000 samples a second: names every frame that is missing, double, misplaced or another\'s; exit 1 if one is'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from tape" -f -a "inspect" -d 'Which segments are there, and what is in them'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from tape" -f -a "verify" -d 'Whether every block is whole and every recording complete; exit 1 if not'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from tape" -f -a "export" -d 'The packets of one call as a pcap file'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "add" -d 'Make a token and print it; it cannot be shown again'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "list" -d 'All tokens, without what they are'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "revoke" -d 'Make a token worthless'
complete -c tipring -n "__fish_tipring_using_subcommand help; and __fish_seen_subcommand_from tune" -f -a "disk" -d 'Try a folder\'s disk the way the tape writes; exit 1 if it is too slow'
