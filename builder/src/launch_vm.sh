#!/usr/bin/env bash
# Starts the confidential VM of one site. `./launch_vm.sh --help` says how; README.txt says what lies in this directory.
#
# Nothing here is trusted by the guest or by the key service: they check what was started, whoever started it. Whatever is
# changed in this file or beside it, the worst result is that the VM gets no key.
set -euo pipefail

# What `coffer build` decided for this site. None of it is secret.
# @VALUES@

readonly MIN_QEMU_SNP=9.2        # the first with sev-snp-guest, guest_memfd and kernel-hashes together
readonly MIN_QEMU_SIMULATE=8.2
readonly STOP_GRACE_S=15         # the guest itself takes at most 10 s for an orderly stop
readonly SIMULATOR_START_S=30    # it hashes firmware, kernel and initrd before it says `ready`

# shellcheck disable=SC2153 # CPUS is one of the values above, `cpus` is the choice made of them
usage() {
	local how=''
	[[ $ROOT_OF_TRUST == amd-sev-snp ]] || how=' --simulate --simulator-state DIR'
	cat <<-HELP
		Starts site $SITE of project $PROJECT: root of trust ${ROOT_OF_TRUST%%:*}.

		Usage: ./launch_vm.sh [OPTIONS]

		  --check                check this host and the digests of this directory's files, start nothing
		  --dry-run              print QEMU's command line, one argument per line, start nothing
		  --cpus N               vCPUs: one of $(printf '%s ' "${CPUS[@]}")[default: $DEFAULT_CPUS]
		  --memory MIB           memory in MiB [default: $DEFAULT_MEMORY_MIB]
		  --port-offset N        forward host port P+N to guest port P [default: 0; guest ports: ${PORTS[*]:-none}]
		  --bind ADDRESS         host address of forwarded ports [default: 0.0.0.0, with --simulate 127.0.0.1]
		  --run-dir DIR          where boot.log, qmp.sock and qemu.log go [default: run, in this directory]
		  --timeout S            stop the VM after S seconds [default: never]
		  --qemu FILE            QEMU to use [default: qemu-system-x86_64]
		  --cbitpos N            position of the C-bit, if it cannot be read from CPUID
		  --simulate             run a simulated site on a software secure processor, without any protection
		  --simulator-state DIR  its keys, made by \`coffer-simulator init DIR\` [default: \$COFFER_SIMULATOR_STATE]
		  --simulator FILE       the simulator to use [default: coffer-simulator]

		Ctrl-C or SIGTERM presses the VM's power button and waits up to $STOP_GRACE_S s; a second one ends it at once.

		Exit codes: 0 the workload ended with 0 · 1 this host, the command line or a file is wrong · 3 the guest stopped before
		the workload, its last line says why · 4 the workload failed · 5 the VM ended without a word, or ran out of time · 6 the key
		service refused to renew the site's attestation, and the guest powered off

		Example: ./launch_vm.sh$how --check && ./launch_vm.sh$how --cpus $DEFAULT_CPUS --memory 16384
	HELP
}

say() { printf '%s\n' "launch_vm.sh: $*" >&2; }

# die TEXT [HINT]: something on this host is wrong.
die() {
	say "$1"
	[[ -z ${2:-} ]] || say "hint: $2"
	exit 1
}

# ---- command line -----------------------------------------------------------------------------------------------------

action=run simulate=no run_dir='' cpus=$DEFAULT_CPUS memory_mib=$DEFAULT_MEMORY_MIB port_offset=0 bind='' timeout_s=0
qemu=qemu-system-x86_64 cbitpos='' simulator=coffer-simulator simulator_state=${COFFER_SIMULATOR_STATE:-}

# number NAME TEXT LEAST MOST: TEXT, if it is a whole number within bounds.
number() {
	if [[ ! $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3 || $2 > $4)); then
		die "$1 $2: expected a whole number from $3 to $4"
	fi
	printf '%s' "$2"
}

parse_options() {
	local option
	while (($#)); do
		option=$1
		case $option in
		--check) action=check ;;
		--dry-run) action=dry-run ;;
		--simulate) simulate=yes ;;
		-h | --help) usage && exit 0 ;;
		--cpus | --memory | --port-offset | --bind | --run-dir | --timeout | --qemu | --cbitpos | --simulator-state | --simulator)
			(($# > 1)) || die "$option needs a value"
			shift
			set_option "$option" "$1"
			;;
		*) die "unknown option \`$option\`" "./launch_vm.sh --help lists them" ;;
		esac
		shift
	done
}

set_option() {
	case $1 in
	--cpus) cpus=$2 ;;
	--memory) memory_mib=$(number --memory "$2" 512 4194304) ;;
	--port-offset) port_offset=$(number --port-offset "$2" 0 65000) ;;
	--bind) bind=$2 ;;
	--run-dir) run_dir=$2 ;;
	--timeout) timeout_s=$(number --timeout "$2" 1 99999999) ;;
	--qemu) qemu=$2 ;;
	--cbitpos) cbitpos=$(number --cbitpos "$2" 32 63) ;;
	--simulator-state) simulator_state=$2 ;;
	--simulator) simulator=$2 ;;
	esac
}

# One line, and no way around it: a simulated site proves nothing, and a production site gets no key from a simulator.
match_root_of_trust() {
	case $ROOT_OF_TRUST/$simulate in
	amd-sev-snp/no | simulated:*/yes) ;;
	amd-sev-snp/yes) die "site $SITE has root of trust amd-sev-snp: it cannot run with --simulate" ;;
	simulated:*/no) die "site $SITE has a simulated root of trust: it runs only with --simulate, and is not protected" ;;
	*) die "root of trust $ROOT_OF_TRUST is neither amd-sev-snp nor simulated" ;;
	esac
}

# The launch digest depends on the number of vCPUs; the enrollment lists those the base was measured for.
match_cpus() {
	local measured
	for measured in "${CPUS[@]}"; do
		[[ $measured != "$cpus" ]] || return 0
	done
	die "--cpus $cpus: this base was measured for ${CPUS[*]} vCPUs with $CPU_MODEL" "any other number gives a launch digest that is not enrolled"
}

# ---- this host --------------------------------------------------------------------------------------------------------

# version_of FILE: the major and minor version of a QEMU.
version_of() {
	local line
	line=$("$1" --version 2>/dev/null) || return 1
	[[ $line =~ version\ ([0-9]+)\.([0-9]+) ]] || return 1
	printf '%s.%s' "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
}

check_qemu() {
	local least=$1 version
	version=$(version_of "$qemu") || die "$qemu does not run" "install qemu-system-x86 $least or newer, or name it with --qemu FILE"
	((${version%.*} > ${least%.*} || (${version%.*} == ${least%.*} && ${version#*.} >= ${least#*.}))) ||
		die "$qemu is version $version, expected $least or newer" "on Debian 12 it is in bookworm-backports"
	report "QEMU $version"
}

# In --check mode, what was found; silent otherwise.
report() { [[ $action != check ]] || printf 'ok: %s\n' "$*"; }

check_snp_host() {
	local parameter=/sys/module/kvm_amd/parameters/sev_snp value=absent
	check_qemu "$MIN_QEMU_SNP"
	[[ -r /dev/kvm && -w /dev/kvm ]] || die "/dev/kvm is missing or not accessible" "load kvm_amd, and run as root or as a member of group kvm"
	report "/dev/kvm"
	[[ ! -r $parameter ]] || value=$(<"$parameter")
	[[ $value == [Y1] ]] || die "$parameter is $value, expected Y" "enable SEV-SNP in the firmware setup (SMEE, SNP memory coverage, IOMMU); Linux 6.11 or newer; see README.txt"
	report "kvm_amd has SEV-SNP"
	[[ -r /dev/sev && -w /dev/sev ]] || die "/dev/sev is missing or not accessible" "load ccp, and run as root or with access to it"
	report "/dev/sev"
	find_cbitpos
	report "C-bit at position $cbitpos"
}

# CPUID 0x8000001F, EBX bits 5:0 (AMD APM volume 3, appendix E.4.17). bash cannot execute CPUID; the kernel's cpuid driver
# does it: in /dev/cpu/0/cpuid the file offset is the leaf, and 16 bytes are EAX, EBX, ECX, EDX. The same position on each
# CPU of a host. QEMU compares it with the real one and refuses any other.
find_cbitpos() {
	local words
	[[ -z $cbitpos ]] || return 0
	[[ -r /dev/cpu/0/cpuid ]] || die "the C-bit's position is unknown: /dev/cpu/0/cpuid is not readable" "\`modprobe cpuid\` and run as root, or give --cbitpos (51 on EPYC 7003, 9004 and 9005)"
	words=$(dd if=/dev/cpu/0/cpuid bs=16 count=1 iflag=skip_bytes skip=$((0x8000001f)) status=none | od -An -tu4) || words=
	read -r -a words <<<"$words"
	((${#words[@]} == 4)) || die "CPUID 0x8000001F cannot be read from /dev/cpu/0/cpuid" "give --cbitpos (51 on EPYC 7003, 9004 and 9005)"
	((words[0] & 16)) || die "CPUID 0x8000001F says that this CPU has no SEV-SNP" "this site needs AMD EPYC 7003 or newer"
	cbitpos=$((words[1] & 63))
}

check_simulate_host() {
	local ark pem
	check_qemu "$MIN_QEMU_SIMULATE"
	type -P "$simulator" >/dev/null || die "$simulator is not there" "put coffer-simulator on the PATH or name it with --simulator FILE"
	report "$(type -P "$simulator")"
	[[ -n $simulator_state ]] || die "--simulate needs --simulator-state DIR" "the directory that \`coffer-simulator init DIR\` made; project.yml named its ark.pem"
	[[ -r $simulator_state/ark.pem ]] || die "$simulator_state/ark.pem is not readable" "\`coffer-simulator init DIR\` makes such a directory"
	simulator_state=$(realpath -- "$simulator_state")
	pem=$(<"$simulator_state/ark.pem")
	pem=${pem#*-----BEGIN CERTIFICATE-----}
	ark=$(printf '%s\n' "${pem%%-----END*}" | base64 -d 2>/dev/null | sha256sum) || ark=
	[[ simulated:${ark%% *} == "$ROOT_OF_TRUST" ]] || die "$simulator_state/ark.pem has SHA-256 ${ark%% *}, this site's root of trust is $ROOT_OF_TRUST" "use the simulator whose ark.pem project.yml named"
	report "simulator's ARK is this site's root of trust"
}

# Accidents only (a truncated download): whoever can change a file here can change manifest.json too.
check_files() {
	local manifest entry sum size count=0
	local fixed='\{"content":\{"fixed":\{"sha256":"([0-9a-f]{64})","size":([0-9]+)\}\},"path":"([A-Za-z0-9._-]+)"\}'
	local mutable='\{"content":\{"mutable":\{"format":"qcow2","virtual_size":([0-9]+)\}\},"path":"([A-Za-z0-9._-]+)"\}'
	[[ -r $bundle/manifest.json ]] || die "manifest.json is missing" "unpack the .tgz again"
	manifest=$(<"$bundle/manifest.json")
	while [[ $manifest =~ $fixed ]]; do
		entry=("${BASH_REMATCH[@]}")
		[[ -r $bundle/${entry[3]} ]] || die "${entry[3]} is missing" "unpack the .tgz again"
		size=$(stat -c %s -- "$bundle/${entry[3]}")
		((size == entry[2])) || die "${entry[3]} is $size bytes long, manifest.json says ${entry[2]}" "unpack the .tgz again"
		sum=$(sha256sum <"$bundle/${entry[3]}")
		[[ ${sum%% *} == "${entry[1]}" ]] || die "${entry[3]} has SHA-256 ${sum%% *}, manifest.json says ${entry[1]}" "unpack the .tgz again"
		manifest=${manifest/"${entry[0]}"/}
		count=$((count + 1))
	done
	while [[ $manifest =~ $mutable ]]; do
		check_disk "${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}"
		manifest=${manifest/"${BASH_REMATCH[0]}"/}
		count=$((count + 1))
	done
	((count >= 10)) || die "manifest.json lists $count files, expected at least 10" "unpack the .tgz again"
	report "$count files are as manifest.json says"
}

# check_disk FILE BYTES: a qcow2 whose header (magic at 0, disk size big-endian at 24) says that many bytes.
check_disk() {
	local header size
	[[ -r $bundle/$1 ]] || die "$1 is missing" "unpack the .tgz again"
	header=$(od -An -v -tx1 -N32 -- "$bundle/$1")
	header=${header//[[:space:]]/}
	[[ ${header:0:8} == 514649fb && ${#header} == 64 ]] || die "$1 is not a qcow2 disk"
	size=$((16#${header:48:16}))
	((size == $2)) || die "$1 holds a disk of $size bytes, manifest.json says $2"
}

# An ID block makes the secure processor insist on what the project signed for this number of vCPUs: its launch digest, its
# policy. QEMU and the simulator take the same two files.
find_id_block() {
	local i
	for i in "${!CPUS[@]}"; do
		[[ ${CPUS[i]} != "$cpus" ]] || id_block=${ID_BLOCKS[i]:-}
	done
	[[ -z $id_block || (-r $bundle/$id_block.block && -r $bundle/$id_block.auth) ]] ||
		die "$id_block.block or $id_block.auth is missing" "unpack the .tgz again"
}

# ---- QEMU's command line ----------------------------------------------------------------------------------------------

# In QEMU's options a comma within a value is doubled.
value() { printf '%s' "${1//,/,,}"; }

# disk NAME FILE SERIAL on|off: coffer-init finds disks by serial.
disk() {
	argv+=(
		-blockdev "driver=qcow2,node-name=$1,read-only=$4,file.driver=file,file.read-only=$4,file.filename=$(value "$bundle/$2")"
		-device "virtio-blk-pci,drive=$1,serial=$3$virtio"
	)
}

network() {
	local port host_port forwards=''
	for port in "${PORTS[@]}"; do
		host_port=$((port + port_offset))
		((host_port <= 65535)) || die "--port-offset $port_offset moves port $port beyond 65535"
		forwards+=",hostfwd=tcp:$bind:$host_port-:$port"
	done
	argv+=(
		-netdev "user,id=net0$forwards"
		-device "virtio-net-pci,netdev=net0,romfile=$virtio"
	)
}

# Sets argv. Sockets and logs are relative: QEMU runs in the run directory, because a socket's path is limited to 107 bytes.
compose_argv() {
	local virtio='' snp
	argv=("$qemu" -name "coffer-$SITE" -no-user-config -nodefaults -no-reboot -display none)
	if [[ $simulate == yes ]]; then
		argv+=(-machine 'q35,vmport=off' -accel 'tcg,thread=multi' -cpu max -smp "$cpus" -m "${memory_mib}M")
	else
		# Encrypted memory needs bounce buffers for every device: modern virtio behind an IOMMU flag.
		virtio=,disable-legacy=on,iommu_platform=on
		snp="sev-snp-guest,id=sev0,cbitpos=$cbitpos,reduced-phys-bits=1,policy=$POLICY,kernel-hashes=on,host-data=$HOST_DATA_BASE64"
		if [[ $id_block ]]; then
			snp+=",id-block=$(base64 -w0 <"$bundle/$id_block.block"),id-auth=$(base64 -w0 <"$bundle/$id_block.auth"),author-key-enabled=on"
		fi
		argv+=(
			-machine 'q35,kernel-irqchip=split,confidential-guest-support=sev0,memory-backend=ram0,vmport=off,smm=off'
			-accel kvm -cpu "$CPU_MODEL" -smp "$cpus" -m "${memory_mib}M"
			-object "memory-backend-memfd,id=ram0,size=${memory_mib}M,share=true,prealloc=false"
			-object "$snp"
		)
	fi
	argv+=(
		-bios "$bundle/OVMF.amdsev.fd" -kernel "$bundle/vmlinuz" -initrd "$bundle/initrd.img" -append "$CMDLINE"
		-fw_cfg "name=opt/coffer/site.json,file=$(value "$bundle/site.json")"
	)
	disk root crypt_root.qcow2 coffer-root on
	disk applog applog.qcow2 coffer-applog off
	disk config user_config.qcow2 coffer-config on
	disk data user_data.qcow2 coffer-data on
	network
	argv+=(
		-chardev 'file,id=console,path=boot.log' -serial chardev:console
		-qmp 'unix:qmp.sock,server=on,wait=off'
		# For this script's own power button: bash can write to a pipe, not to a UNIX socket.
		-chardev 'pipe,id=button,path=button' -mon 'chardev=button,mode=control'
	)
	if [[ $simulate == yes ]]; then
		argv+=(
			-device virtio-serial-pci -chardev 'socket,id=asp,path=asp.sock' -device 'virtserialport,chardev=asp,name=org.coffer.asp'
			-device "loader,file=hashes.bin,addr=$hashes_at,force-raw=on"
		)
	fi
}

# ---- a run ------------------------------------------------------------------------------------------------------------

# The lock is on the disk the guest writes, so it holds whatever the run directory is. QEMU inherits it: it lasts as long
# as the VM, even if this script is killed.
take_lock() {
	exec {lock}<"$bundle/applog.qcow2"
	flock -n "$lock" || die "site $SITE is already running from this directory" "stop it first: Ctrl-C there, or QMP system_powerdown on its qmp.sock"
}

prepare_run_dir() {
	umask 077
	mkdir -p -- "$run_dir" || die "run directory $run_dir cannot be made" "give another with --run-dir DIR"
	[[ -w $run_dir && -x $run_dir ]] || die "run directory $run_dir is not writable" "another user made it: remove it, or give another with --run-dir DIR"
	cd -- "$run_dir"
	rm -f -- boot.log qemu.log simulator.log qmp.sock asp.sock hashes.bin loader button.in button.out
	mkfifo -m 600 button.in button.out
	: >boot.log
}

start_simulator() {
	local deadline=$((SECONDS + SIMULATOR_START_S)) line='' signed=()
	[[ -z $id_block ]] ||
		signed=(--id-block "$bundle/$id_block.block" --id-auth "$bundle/$id_block.auth" --author-key-enabled)
	set -m # its own process group: Ctrl-C is this script's to handle
	"$simulator" run --state "$simulator_state" --run-dir . --ovmf "$bundle/OVMF.amdsev.fd" --kernel "$bundle/vmlinuz" \
		--initrd "$bundle/initrd.img" --append "$CMDLINE" --vcpus "$cpus" --cpu-model "$CPU_MODEL" --host-data "$HOST_DATA" \
		--policy "$POLICY" "${signed[@]}" </dev/null >simulator.log 2>&1 {lock}<&- &
	simulator_pid=$!
	set +m
	until [[ $line == ready ]]; do
		kill -0 "$simulator_pid" 2>/dev/null || die "$simulator ended before it was ready: $(tail -n 3 simulator.log)"
		((SECONDS < deadline)) || die "$simulator was not ready within $SIMULATOR_START_S s"
		sleep 0.1
		line=$(tail -n 1 simulator.log)
	done
	line=$(<loader)
	[[ $line =~ ^addr=(0x[0-9a-f]+)$ ]] || die "$simulator wrote \`$line\` to $run_dir/loader, expected \`addr=0x…\`"
	hashes_at=${BASH_REMATCH[1]}
}

start_qemu() {
	set -m
	"${argv[@]}" </dev/null >qemu.log 2>&1 &
	qemu_pid=$!
	set +m
}

# Shows the guest's own lines as they come, and keeps the ones that decide how it went. Console bytes are the guest's and
# the host's: only printable characters reach the terminal.
workload='' failed='' refused='' pending=''
follow_console() {
	local part
	while IFS= read -r part <&"$console"; do
		console_line "$pending$part"
		pending=
	done
	pending+=$part
}

console_line() {
	local line=${1//[^[:print:]]/}
	[[ $line == *coffer-init:\ * ]] || return 0
	# From the first one on: behind it may stand what a key service said.
	line="coffer-init: ${line#*coffer-init: }"
	printf '%s\n' "$line"
	case $line in
	"coffer-init: failed "*) failed=$line ;;
	"coffer-init: refused code="*) refused=yes ;;
	"coffer-init: workload exit="* | "coffer-init: workload signal="*)
		workload=${line#coffer-init: workload }
		workload=${workload%% *}
		;;
	esac
}

press_power_button() {
	printf '%s\n' '{"execute":"qmp_capabilities"}' '{"execute":"system_powerdown"}' >&"$button"
	deadline=$((SECONDS + STOP_GRACE_S))
}

stops=0 deadline=0 timed_out=no
wait_for_end() {
	local began=$SECONDS
	while kill -0 "$qemu_pid" 2>/dev/null; do
		follow_console
		if ((timeout_s > 0 && SECONDS - began >= timeout_s && stops == 0)); then
			say "the VM has run for $timeout_s s: pressing its power button"
			timed_out=yes stops=1
		fi
		if ((stops > 0 && deadline == 0)); then
			press_power_button
		elif ((stops > 1 || (deadline > 0 && SECONDS >= deadline))); then
			say "ending the VM"
			kill -KILL "$qemu_pid" 2>/dev/null || true
		fi
		sleep 0.2 || true
	done
	qemu_status=0
	wait "$qemu_pid" || qemu_status=$?
	follow_console
	[[ -z $pending ]] || console_line "$pending"
}

# Says how it went, by the guest's own last words.
conclude() {
	if [[ $workload == exit=0 && $timed_out == no ]]; then
		exit 0
	elif [[ $workload ]]; then
		say "the workload ended with $workload; its output is in applog.qcow2"
		say "hint: coffer logs $bundle"
		exit 4
	elif [[ $refused && $failed == "coffer-init: failed stage=workload "* ]]; then
		say "the key service refused this site while its workload ran: ${failed#coffer-init: failed stage=workload }"
		say "hint: the project's admin finds the id in the service's log, and may let the site start again"
		exit 6
	elif [[ $failed ]]; then
		say "the guest stopped before the workload: ${failed#coffer-init: }"
		exit 3
	elif ((qemu_status != 0 && stops == 0)) && [[ ! -s boot.log ]]; then
		die "QEMU did not start the VM: $(tail -n 3 qemu.log)" "./launch_vm.sh --check tests this host"
	fi
	say "the VM ended without a word (QEMU's status $qemu_status); the console is in $run_dir/boot.log"
	# The guest's kernel says nothing to its host, not even why it panics.
	((qemu_status != 0 || stops > 0)) || say "hint: a changed block of crypt_root.qcow2 ends a VM so; ./launch_vm.sh --check compares it"
	exit 5
}

simulator_pid=''
# shellcheck disable=SC2317 # called by a trap
clean_up() {
	rm -f -- button.in button.out qmp.sock asp.sock
	[[ -z $simulator_pid ]] || kill "$simulator_pid" 2>/dev/null || true
}

run() {
	take_lock
	prepare_run_dir
	trap clean_up EXIT
	trap 'stops=$((stops + 1))' INT TERM HUP
	[[ $simulate == no ]] || start_simulator
	compose_argv
	exec {console}<boot.log {button}<>button.in
	start_qemu
	say "site $SITE runs as process $qemu_pid; console: $run_dir/boot.log"
	wait_for_end
	conclude
}

parse_options "$@"
bundle=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
run_dir=$(realpath -m -- "${run_dir:-$bundle/run}")
hashes_at='<addr written by coffer-simulator>' id_block=''
match_root_of_trust
match_cpus
find_id_block
if [[ -z $bind ]]; then
	[[ $simulate == yes ]] && bind=127.0.0.1 || bind=0.0.0.0
fi
[[ $bind =~ ^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "--bind $bind: expected an IPv4 address of this host"

if [[ $action == dry-run ]]; then
	[[ $simulate == yes ]] || find_cbitpos
	compose_argv
	printf '%s\n' "${argv[@]}"
	exit 0
fi
if [[ $simulate == yes ]]; then check_simulate_host; else check_snp_host; fi
if [[ $action == check ]]; then
	check_files
	printf 'ok: site %s can be started\n' "$SITE"
	exit 0
fi
run
