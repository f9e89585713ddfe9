#!/bin/sh
# recover.sh: restores a snapshot of a recoup repository (format version 1) without recoup.
#
# usage: sh recover.sh [--unsigned] SOURCE SEQ IDENTITY_FILE OUT_DIR
#
# Needs age, zstd, jq (1.6 or later), ssh-keygen (OpenSSH 8.1 or later), sha256sum and the usual small tools.
# RECOVERY.md, beside this file on every store, says how to use it and what it checks.
#
# Nothing is believed because it lies on a store. The anchor is IDENTITY_FILE.signers: it vouches for the inventory,
# the inventory for the object lists and the manifest root by SHA-256, the object lists for everything else. Each
# object is copied, the copy compared with its size and SHA-256, and only then opened. What does not fit is refused.
#
# The programs in single quotes are jq's:
# shellcheck disable=SC2016

set -u
LC_ALL=C
export LC_ALL
unset CDPATH JQ_COLORS
umask 077
# A crashed decryption must not leave keys in a core file.
# shellcheck disable=SC3045
ulimit -c 0 2>/dev/null || :

work=      # scratch directory
staging=   # what is not published yet, inside OUT_DIR
out=       # OUT_DIR, as an absolute path
out_made=  # whether OUT_DIR is ours
published= # list of what was moved into OUT_DIR while not all of it is there
tab=$(printf '\t')

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "recover.sh: $*"
  say 'recover.sh: nothing was restored'
  exit 1
}

usage() {
  say 'usage: sh recover.sh [--unsigned] SOURCE SEQ IDENTITY_FILE OUT_DIR'
  say '  SOURCE         name of the source, such as ledger'
  say '  SEQ            number of the snapshot, or its full name (number-run)'
  say '  IDENTITY_FILE  age identity of a custodian; trusted signers are read from IDENTITY_FILE.signers'
  say '  OUT_DIR        a directory that does not exist, or is empty, yours, and writable by nobody else'
  say '  --unsigned     do not check who signed the snapshot: it may be a forgery'
  say 'Run it in the top directory of a store, or in place there.'
  exit 64
}

# Removes a tree of ours; no link in it is followed. Root can do without the modes, which must not be set in what
# belongs to others already: they could put a link in the way.
remove_tree() {
  [ -e "$1" ] || [ -L "$1" ] || return 0
  [ "$me" = 0 ] || find "$1" -type d -exec chmod 700 {} \; 2>/dev/null
  rm -rf "$1"
}

clean_up() {
  status=$?
  trap '' HUP INT TERM
  if [ -n "$published" ] && [ -f "$published" ]; then
    while IFS= read -r stored; do
      decode "$stored" && remove_tree "./$decoded"
    done <"$published"
  fi
  [ -z "$staging" ] || remove_tree "$staging"
  [ -z "$out_made" ] || rmdir "$out" 2>/dev/null
  [ -z "$work" ] || rm -rf "$work"
  exit "$status"
}

# ---- small things ----------------------------------------------------------------------------------------------

# Sets `absolute`: a path that means the same after a change of directory, and that no program takes for an option.
absolute_path() {
  case $1 in
    /*) absolute=$1 ;;
    *) absolute=${started_in%/}/$1 ;;
  esac
}

# Whether nobody else may put anything into a directory, or take anything out of it.
is_ours_alone() {
  [ -n "$(find "$1/." -prune -user "$me" ! -perm -020 ! -perm -002 2>/dev/null)" ]
}

# Numbers reach arithmetic and dd only through this.
is_number() {
  case $1 in
    '' | *[!0-9]* | 0?*) return 1 ;;
  esac
  [ ${#1} -le 16 ]
}

is_run() {
  case $1 in
    *[!a-z2-7]*) return 1 ;;
  esac
  [ ${#1} -eq 16 ]
}

# Sets `size`. Where wc is busybox, it reads the whole file to count it, and counts wrongly from 4 GiB.
size_of() {
  # shellcheck disable=SC2012
  size=$(ls -Llnd "$1" | {
    read -r _ _ _ _ bytes_listed _
    printf '%s' "$bytes_listed"
  })
  is_number "$size"
}

# Sets `decoded` to the bytes that a percent-coded text stands for. Only what must be coded may be.
decode() {
  rest=$1
  decoded=
  while :; do
    case $rest in
      *%*) ;;
      *)
        decoded=$decoded$rest
        return 0
        ;;
    esac
    decoded=$decoded${rest%%\%*}
    rest=${rest#*%}
    pair=${rest%"${rest#??}"}
    case $pair in
      00) return 1 ;;
      25) ;;
      [2-6][0-9a-f] | 7[0-9a-e]) return 1 ;;
      [0-9a-f][0-9a-f]) ;;
      *) return 1 ;;
    esac
    # The x keeps a line end at the end; octal escapes are the portable ones.
    # shellcheck disable=SC2059
    byte=$(printf "\\$(printf '%03o' "0x$pair")x")
    decoded=$decoded${byte%x}
    rest=${rest#??}
  done
}

# A stored path that cannot leave the directory it is joined to.
is_safe_path() {
  case $1 in
    '' | /* | */ | *//* | . | .. | ./* | ../* | */. | */.. | */./* | */../*) return 1 ;;
    .recoup-partial | .recoup-partial/*) return 1 ;;
    *[!\ -~]*) return 1 ;;
  esac
  decode "$1"
}

# ---- objects ---------------------------------------------------------------------------------------------------

# What one store has lost, another may hold.
lost() {
  say "recover.sh: $*"
  fail 'if another store has that file intact, copy it from there to the same place, and run this again'
}

# fetch NAME SHA256 SIZE LIMIT TO: copies an object and checks the copy. SIZE may be `-`, then it is at most LIMIT;
# SHA256 may be `-` for what a signature covers.
fetch() {
  [ -f "$store/$1" ] || lost "$1 is missing"
  size_of "$store/$1" || lost "$1 cannot be read"
  if [ "$3" = - ]; then
    [ "$size" -le "$4" ] || lost "$1 is damaged: it is larger than any such object"
  else
    [ "$size" -eq "$3" ] || lost "$1 is damaged: it has $size bytes, not $3"
  fi
  rm -f "$5"
  cat "$store/$1" >"$5" || fail "$1 cannot be read, or $work is full"
  [ "$2" != - ] || return 0
  sum=$(sha256sum <"$5") || fail "$1: sha256sum failed"
  [ "${sum%% *}" = "$2" ] || lost "$1 is damaged: its SHA-256 is ${sum%% *}, not $2"
}

# unseal NAME SEALED LIMIT TO: decrypts and decompresses a checked object into at most LIMIT bytes.
unseal() {
  rm -f "$4" "$work/age-failed" "$work/zstd-failed"
  # A shell need not know how the first commands of a pipeline ended, so they leave a mark.
  { age -d -i "$identity" "$2" </dev/null || : >"$work/age-failed"; } |
    (
      # In blocks of 512 bytes: whatever the frames claim, no more than this reaches the disk.
      ulimit -f $(($3 / 512 + 1)) 2>/dev/null || :
      zstd -d -c -q
    ) >"$4" || : >"$work/zstd-failed"
  [ ! -e "$work/age-failed" ] || fail "$1 cannot be opened with $identity"
  [ ! -e "$work/zstd-failed" ] || fail "$1 cannot be decompressed, holds more than it may, or $work is full"
  size_of "$4" || fail "$1: its content cannot be read"
  [ "$size" -le "$3" ] || fail "$1 is damaged: it holds more than $3 bytes"
}

# What jq programs share. Names, paths and digests are plain ASCII; numbers are whole and below 2^53.
jq_common='
def must(condition; why): if condition then . else error(why) end;
def whole: type == "number" and . >= 0 and . < 9007199254740992 and . == floor;
def ascii(allowed): type == "string" and length > 0 and (explode | all(.[]; allowed));
def is_run: ascii((. >= 97 and . <= 122) or (. >= 50 and . <= 55)) and length == 16;
def is_sha256: ascii((. >= 48 and . <= 57) or (. >= 97 and . <= 102)) and length == 64;
def is_printable: ascii(. >= 32 and . <= 126);
def canonical: ascii(. >= 48 and . <= 57) and (. == "0" or (startswith("0") | not));
def must_be(format): must(type == "object" and .format == format;
  "its format is not " + format + ", the one that this script reads");
def only: must(length == 1; "it is not one JSON value") | .[0];
def ranges: if . == "" then [] else split(",") | map(split("-")
  | must((length == 1 or length == 2) and all(.[]; canonical and length <= 10); "its list of packs is wrong")
  | [(.[0] | tonumber), (.[-1] | tonumber)]) end;
'

# read_json NAME TO OPTIONS... PROGRAM FILE: runs jq; a program that meets something wrong says so and fails.
read_json() {
  what=$1
  to=$2
  shift 2
  if ! jq "$@" >"$to" 2>"$work/jq-says"; then
    # Programs and parser quote nothing that an object holds, except perhaps in a first line of printable text.
    reason=$(head -n 1 "$work/jq-says" | tr -cd ' -~' | cut -c 1-300)
    fail "$what is not what it should be: ${reason#*): }"
  fi
}

# ---- what is asked for -----------------------------------------------------------------------------------------

read_arguments() {
  unsigned=
  while [ $# -gt 0 ]; do
    case $1 in
      --unsigned) unsigned=yes ;;
      --)
        shift
        break
        ;;
      -*) usage ;;
      *) break ;;
    esac
    shift
  done
  [ $# -eq 4 ] || usage
  source=$1
  seq=$2
  started_in=$(pwd -P) || fail 'the current directory cannot be read'
  me=$(id -u) || fail 'id does not say who you are'
  absolute_path "$3"
  identity=$absolute
  signers=$identity.signers
  absolute_path "$4"
  out=${absolute%/}
  case $source in
    '' | [!a-z0-9]* | *[!a-z0-9_-]*) fail 'SOURCE is not the name of a source: use a-z, 0-9, _ and -' ;;
  esac
  [ ${#source} -le 63 ] || fail 'SOURCE is longer than the name of a source may be'
  read_seq
}

# Sets `number`, `padded`, and `run` where SEQ has one.
read_seq() {
  number=${seq%%-*}
  run=
  while :; do
    case $number in
      0?*) number=${number#0} ;;
      *) break ;;
    esac
  done
  if ! is_number "$number" || [ ${#number} -gt 10 ] || [ "$number" = 0 ]; then
    fail 'SEQ is not the number of a snapshot: use a number such as 12, or a full name such as 0000000012-abcdefghijklmnop'
  fi
  padded=$(printf '%010d' "$number")
  case $seq in
    *-*)
      run=${seq#*-}
      is_run "$run" || fail 'SEQ is not the full name of a snapshot: after the hyphen come 16 characters of a-z and 2-7'
      ;;
  esac
}

check_tools() {
  missing=
  for tool in age zstd jq ssh-keygen sha256sum dd find id sort sed cut tr ls cat head mktemp; do
    command -v "$tool" >/dev/null 2>&1 || [ "$tool$unsigned" = ssh-keygenyes ] || missing="$missing $tool"
  done
  [ -z "$missing" ] || fail "these programs are missing:$missing"
}

find_store() {
  store=$started_in
  if [ ! -f recoup.json ]; then
    case $0 in
      */*)
        absolute_path "${0%/*}"
        store=$absolute
        ;;
    esac
  fi
  [ -f "$store/recoup.json" ] ||
    fail 'there is no recoup.json here: change to the top directory of a store, then run this again'
}

check_identity() {
  if [ ! -f "$identity" ] || [ ! -r "$identity" ]; then
    fail "the identity file $identity cannot be read"
  fi
  if [ -n "$unsigned" ]; then
    say 'recover.sh: WARNING: --unsigned: whoever can write to this store may have forged what is restored'
  elif [ ! -f "$signers" ] || [ ! -r "$signers" ]; then
    say "recover.sh: $signers is missing: it says whose snapshots to trust, and belongs beside the identity"
    fail 'bring it from where the identity is kept; --unsigned does without, and then nothing shows a forgery'
  fi
}

# The target is only looked at: it is made when there is something to put into it.
check_target() {
  if [ -e "$out" ] || [ -L "$out" ] || [ -z "$out" ]; then
    [ -d "$out" ] || fail "OUT_DIR $out is no directory"
    held=$(ls -A "$out") || fail "$out cannot be read"
    [ -z "$held" ] || fail "$out is not empty; name a new or an empty directory"
    is_ours_alone "$out" || refuse_open_target
  fi
}

# Whoever may write to OUT_DIR could put links there while this runs, and have any file overwritten.
refuse_open_target() {
  say "recover.sh: $out belongs to somebody else, or others may write to it"
  fail 'name a directory that does not exist; or make this one yours alone, with chown and chmod go-w'
}

make_scratch() {
  absolute_path "${TMPDIR:-/tmp}"
  # Who may take away what is ours there could put links in its place.
  if [ -d "$absolute" ] && [ -z "$(find "$absolute/." -prune \( -user "$me" -o -user 0 \) \
    \( -perm -1000 -o ! -perm -020 ! -perm -002 \) 2>/dev/null)" ]; then
    fail "others may change what lies in $absolute; set TMPDIR to a directory of yours"
  fi
  trap clean_up EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  work=$(mktemp -d "$absolute/recover.XXXXXXXXXX") ||
    fail "nothing can be written in $absolute; set TMPDIR to a directory with room"
}

# ---- which repository, which snapshot --------------------------------------------------------------------------

read_repository() {
  fetch recoup.json - - 65536 "$work/recoup.json"
  read_json recoup.json "$work/repository" -s -r "$jq_common"'
    only | must(type == "object" and (.format_version | whole); "it is no recoup.json")
    | must(.format_version == 1; "the repository has another format; use the recover.sh of that format")
    | must(.repository | is_run; "its repository id is none") | .repository' "$work/recoup.json"
  repository=$(cat "$work/repository")
  is_run "$repository" || fail 'recoup.json names no repository'
}

# is_signed FOLDER: whether a trusted signer signed the copy of the inventory there as one of this source.
is_signed() {
  ssh-keygen -Y verify -n recoup-inventory -I "$source@$repository" -f "$signers" \
    -s "$1/inventory.json.sig" <"$1/inventory.json" >"$1/verdict" 2>&1
}

# Whether a trusted signer vouches for exactly this inventory: whoever signed it was revoked since.
is_vouched_for() {
  sum=$(sha256sum <"$work/inventory.json") || return 1
  for list in "$store"/keys/*.json; do
    vouch=${list##*/}
    vouch=${vouch%.json}
    is_run "$vouch" || continue
    # What cannot be read is no reason to give up: another one may do.
    (
      fetch "keys/$vouch.sig" - - 8192 "$work/vouch.sig"
      fetch "keys/$vouch.json" - - 67108864 "$work/vouch"
    ) 2>/dev/null || continue
    ssh-keygen -Y verify -n recoup-keys -I "keys@$repository" -f "$signers" -s "$work/vouch.sig" \
      <"$work/vouch" >"$work/vouch-verdict" 2>&1 || continue
    jq -e -s --arg repository "$repository" --arg vouch "$vouch" --arg name "$here/inventory.json" \
      --arg sum "${sum%% *}" 'length == 1 and (.[0] | .format == "recoup-vouch/1" and .repository == $repository
        and .vouch == $vouch and .objects[$name] == $sum)' "$work/vouch" >/dev/null 2>&1 && return 0
  done
  return 1
}

# Sets `run`. A snapshot is what has an inventory.
choose_snapshot() {
  folder=sources/$source
  found=
  count=0
  for inventory in "$store/$folder/snapshots/$padded-"*/inventory.json; do
    name=${inventory%/inventory.json}
    name=${name##*/}
    if ! is_run "${name#*-}" || [ ! -f "$inventory" ]; then
      continue
    fi
    [ -z "$run" ] || [ "${name#*-}" = "$run" ] || continue
    found="$found $name"
    count=$((count + 1))
  done
  [ "$count" -ne 0 ] || name_what_there_is
  [ "$count" -eq 1 ] || name_the_fork
  run=${found#*-}
}

name_what_there_is() {
  say "recover.sh: this store has no snapshot $padded${run:+-$run} of $source; it has:"
  for inventory in "$store/$folder/snapshots/"??????????-*/inventory.json; do
    name=${inventory%/inventory.json}
    name=${name##*/}
    case ${name%%-*} in
      *[!0-9]*) continue ;;
    esac
    if is_run "${name#*-}" && [ -f "$inventory" ]; then
      say "  $name"
    fi
  done
  fail 'no such snapshot'
}

name_the_fork() {
  say "recover.sh: $count snapshots of $source have the number $number (a fork). Name one of them in full:"
  for name in $found; do
    remark='signature not checked'
    if [ -z "$unsigned" ]; then
      remark='NOT SIGNED by a trusted signer'
      mkdir "$work/$name" || fail "$work is full"
      if [ -f "$store/$folder/snapshots/$name/inventory.json.sig" ]; then
        fetch "$folder/snapshots/$name/inventory.json" - - 16777216 "$work/$name/inventory.json"
        fetch "$folder/snapshots/$name/inventory.json.sig" - - 8192 "$work/$name/inventory.json.sig"
        ! is_signed "$work/$name" || remark='signed by a trusted signer'
      fi
    fi
    say "  $name  ($remark)"
  done
  fail 'the number alone does not say which'
}

# ---- the inventory: who signed it, is it where it belongs, what does it use -------------------------------------

check_signature() {
  here=$folder/snapshots/$padded-$run
  fetch "$here/inventory.json" - - 16777216 "$work/inventory.json"
  [ -z "$unsigned" ] || return 0
  [ -f "$store/$here/inventory.json.sig" ] || fail "$here/inventory.json.sig is missing: nobody vouches for this snapshot"
  fetch "$here/inventory.json.sig" - - 8192 "$work/inventory.json.sig"
  if is_signed "$work"; then
    tr -cd '\n -~' <"$work/verdict" | head -n 1 >&2
    return 0
  fi
  if is_vouched_for; then
    say "recover.sh: its signer was revoked since; vouch $vouch, by a trusted signer, says that it is good"
    return 0
  fi
  tr -cd '\n -~' <"$work/verdict" | head -n 5 | sed 's/^/  /' >&2
  # The signers name the repository that they sign for; no other one can use them.
  if grep -q '@[a-z2-7]\{16\}' "$signers" && ! grep -q -F "@$repository" "$signers"; then
    say "recover.sh: this store holds repository $repository, and $signers is for another one"
  fi
  fail "$here/inventory.json is not signed by a trusted signer of $source@$repository"
}

# Out come lines: the root (name, SHA-256, size), then each run (name, SHA-256 of its object list).
read_inventory() {
  read_json "$here/inventory.json" "$work/uses" -s -r --arg repository "$repository" --arg source "$source" \
    --arg seq "$number" --arg run "$run" "$jq_common"'
    only | must_be("recoup-inventory/1")
    | must(.repository == $repository; "it is of another repository")
    | must(.source == $source; "it is of another source")
    | must(.seq == ($seq | tonumber) and .run == $run; "it is of another snapshot than its path says")
    | must((.uses | type) == "array" and (.uses | length) <= 256; "its list of runs is wrong")
    | must(all(.uses[]; (.run | is_run) and (.objects_sha256 | is_sha256) and (.packs | type) == "string");
        "its list of runs is wrong")
    | must(([.uses[].run] | unique | length) == (.uses | length); "it names a run twice")
    | (.uses |= map(.packs |= ranges))
    | must((.manifest.size | whole) and (.manifest.sha256 | is_sha256); "its manifest is wrong")
    | (.manifest.name | split("/")) as $parts
    | must(($parts | length) == 3 and $parts[0] == "snapshots" and $parts[2] == "manifest.age"
        and ($parts[1] | (.[:10] | ascii(. >= 48 and . <= 57)) and .[10:11] == "-" and (.[11:] | is_run));
        "its manifest has a name that no manifest has")
    | ([.manifest.name, .manifest.sha256, .manifest.size] | join(" ")),
      (.uses[] | .run + " " + .objects_sha256)' "$work/inventory.json"
}

# ---- object lists and frame tables of the runs it uses ----------------------------------------------------------

# read_objects RUN SHA256: the object list of a run.
read_objects() {
  list=$folder/packs/$1/objects.json
  fetch "$list" "$2" - 268435456 "$work/objects.json"
  read_json "$list" "$work/one-run" -s -r --arg repository "$repository" --arg source "$source" --arg run "$1" \
    "$jq_common"'
    only | must_be("recoup-objects/1")
    | must(.repository == $repository and .source == $source and .run == $run; "it is of another run")
    | must((.objects | type) == "array"; "it lists nothing")
    | must(all(.objects[]; (.name | is_printable) and (.size | whole) and (.sha256 | is_sha256)); "it lists odd objects")
    | must(([.objects[].name] | unique | length) == (.objects | length); "it lists an object twice")
    | (.objects[] | select(.name == "index.age") | "index \(.sha256) \(.size)"),
      (.objects[] | {key: ($run + "/" + .name), value: [.sha256, .size]} | tojson)' "$work/objects.json"
  sed -n 's/^index //p' "$work/one-run" >"$work/index-object" || fail "$work is full"
  sed -n '/^{/p' "$work/one-run" >>"$work/objects.lines" || fail "$work is full"
}

# read_index RUN: the frame table of a run, as far as its packs are used.
read_index() {
  [ -s "$work/index-object" ] || return 0
  IFS=' ' read -r sha256 index_size <"$work/index-object"
  is_number "$index_size" || fail "$list names an index of a size that none has"
  fetch "$folder/packs/$1/index.age" "$sha256" "$index_size" - "$work/sealed"
  unseal "$folder/packs/$1/index.age" "$work/sealed" 1073741824 "$work/index"
  read_json "$folder/packs/$1/index.age" "$work/index-packs" -n -c --arg run "$1" \
    --slurpfile list "$work/objects.json" --slurpfile inventory "$work/inventory.json" "$jq_common"'
    ($list[0].objects | map({key: .name, value: .}) | from_entries) as $objects
    | ($inventory[0].uses[] | select(.run == $run) | .packs | ranges) as $used
    | (input | must_be("recoup-index/1") | must(.run == $run; "it is of another run")) as $head
    | inputs
    | must((.pack | whole) and (.raw_bytes | whole) and (.block_size | whole) and (.frames | type) == "array";
        "it describes a pack wrongly")
    | .pack as $pack
    | .block_size as $block
    | must(any([512, 1024, 2048, 4096, 8192, 16384, 32768, 65536][]; . == $block);
        "it describes a pack with a block size that none has")
    | must(.raw_bytes > 0 and .raw_bytes <= 335544320 and .raw_bytes % $block == 0;
        "it describes a pack with a raw size that none has")
    | must((.frames | length) == ((.raw_bytes + 131071) / 131072 | floor);
        "it describes a pack with frames that do not add up")
    | select(any($used[]; .[0] <= $pack and $pack <= .[1]))
    | $objects["\($pack).age"] as $object
    | must($object != null; "it describes a pack that objects.json does not list")
    | {key: ($run + "/" + ($pack | tostring)), run: $run, pack: $pack, sha256: $object.sha256,
       size: $object.size, block_size: $block, raw_bytes: .raw_bytes}' "$work/index"
  cat "$work/index-packs" >>"$work/packs.lines" || fail "$work is full"
}

read_runs() {
  root_size=
  : >"$work/objects.lines"
  : >"$work/packs.lines"
  {
    IFS=' ' read -r root_name root_sha256 root_size
    while IFS=' ' read -r used objects_sha256; do
      read_objects "$used" "$objects_sha256"
      read_index "$used"
    done
  } <"$work/uses"
  # From here on a pack is known by its place in this list.
  read_json 'the list of packs' "$work/packs" -s -r "$jq_common"'
    must(([.[].key] | unique | length) == length; "a pack is described twice")
    | to_entries[] | [.key, .value.run, .value.pack, .value.sha256, .value.size, .value.raw_bytes]
    | map(tostring) | join(" ")' "$work/packs.lines"
}

# ---- the manifest: root, then parts ----------------------------------------------------------------------------

read_root() {
  is_number "$root_size" || fail "$here/inventory.json names a manifest of a size that none has"
  fetch "$folder/$root_name" "$root_sha256" "$root_size" - "$work/sealed"
  unseal "$folder/$root_name" "$work/sealed" 67108864 "$work/root"
  read_json "$folder/$root_name" "$work/parts" -n -r --arg repository "$repository" --arg source "$source" \
    --slurpfile objects "$work/objects.lines" "$jq_common"'
    ($objects | from_entries) as $objects
    | (input | must_be("recoup-manifest/1")
      | must(.repository == $repository and .source == $source; "it is of another source")) as $head
    | inputs
    | must((.run | is_run) and (.part | whole); "it names a part wrongly")
    | $objects["\(.run)/m\(.part).age"] as $object
    | must($object != null; "it names a part that no object list has")
    | "\(.run)/m\(.part).age \($object[0]) \($object[1])"' "$work/root"
}

read_parts() {
  : >"$work/manifest"
  while IFS=' ' read -r name sha256 part_size; do
    is_number "$part_size" || fail "packs/$name has a size that no part has"
    fetch "$folder/packs/$name" "$sha256" "$part_size" - "$work/sealed"
    unseal "$folder/packs/$name" "$work/sealed" 4194304 "$work/part"
    # The mark makes each part bring its own head.
    { printf '{"next_part":true}\n' && cat "$work/part" && echo; } >>"$work/manifest" || fail "$work is full"
  done <"$work/parts"
}

read_items() {
  # Out come lines of fields without blanks that need care: E for entries in order, X for extents by pack. Anything
  # that contradicts itself, an object list or a frame table, or could leave OUT_DIR, ends it here.
  read_json "the manifest of $padded-$run" "$work/items" -n -r --slurpfile packs "$work/packs.lines" "$jq_common"'
    def decoded_length: length - 2 * ((split("%") | length) - 1);
    def is_stored_path: is_printable and decoded_length <= 4095
      and (split("/") | .[0] != ".recoup-partial"
        and all(.[]; . != "" and . != "." and . != ".." and decoded_length <= 255));
    def is_owner: whole and . <= 4294967294;
    def entry($entry):
      must($entry.path | is_stored_path; "an entry has a path that is not allowed")
      | must($entry.path > .path; "its entries are not in order")
      | must($entry.mode | ascii(. >= 48 and . <= 55) and length == 4; "\($entry.path) has a mode that none has")
      | must(($entry.uid | is_owner) and ($entry.gid | is_owner); "\($entry.path) has an owner that none is")
      | must($entry.kind == "file" or $entry.kind == "directory" or $entry.kind == "link";
          "\($entry.path) is of an unknown kind")
      | .number += 1 | .path = $entry.path | .next = 0 | .blocks = 0 | .block_size = 0
      | if $entry.kind == "file" then
          must(($entry.size | whole) and $entry.size <= 281474976710656 and any([512, 1024, 2048, 4096, 8192, 16384, 32768, 65536][];
            . == $entry.block_size); "\($entry.path) has a size that none has")
          | .block_size = $entry.block_size
          | .blocks = (($entry.size - $entry.size % .block_size) / .block_size
              + (if $entry.size % .block_size > 0 then 1 else 0 end))
        elif $entry.kind == "link" then
          must($entry.target | is_printable and decoded_length <= 4095; "\($entry.path) points to something that cannot be")
        else . end
      | .out = [["E", .number, $entry.kind, if $entry.kind == "file" then $entry.size else 0 end, $entry.mode,
          $entry.uid, $entry.gid, $entry.path, if $entry.kind == "link" then $entry.target else "-" end]];
    def extent($packs; $path; $run; $at):
      $packs["\($run)/\($at[3])"] as $pack
      | must(all($at[]; whole) and ($at | length) == 5; "\(.path) has an extent that is none")
      | must($path == .path and $at[1] > 0 and $at[0] >= .next and $at[0] + $at[1] <= .blocks;
          "the extents of \(.path) contradict it")
      | must($pack != null; "\(.path) uses a pack that the inventory does not name")
      | must($pack[1] == .block_size and $at[4] + $at[1] <= $pack[2];
          "\(.path) uses blocks that its pack does not have")
      | .next = $at[0] + $at[1]
      | .out += [["X", $pack[0], $at[4], .number, $at[0], $at[1], .block_size]];
    ($packs | to_entries
      | map({key: .value.key, value: [.key, .value.block_size, .value.raw_bytes / .value.block_size]})
      | from_entries) as $packs
    | foreach inputs as $line (
      {number: 0, path: "", next: 0, blocks: 0, block_size: 0, runs: null, fresh: false, out: []};
      .out = []
      | must($line | type == "object"; "a line is no object")
      | if $line | has("next_part") then .runs = null | .fresh = true
        elif .fresh then
          ($line | must_be("recoup-manifest-part/1")) as $head
          | must($line.runs | type == "array" and all(.[]; is_run); "a part has a wrong list of runs")
          | .runs = $line.runs | .fresh = false
        elif $line | has("entry") then entry($line.entry)
        elif $line | has("extents") then
          reduce $line.extents.at[] as $at (.;
            must($at[2] | whole; "an extent names no run")
            | extent($packs; $line.extents.path; .runs[$at[2]]; $at))
        else error("a line is neither an entry nor extents") end;
      .out[] | map(tostring) | join("\t"))' "$work/manifest"
  rm -f "$work/manifest"
  sed -n "s/^E$tab//p" "$work/items" >"$work/entries" || fail "$work is full"
  sed -n "s/^X$tab//p" "$work/items" >"$work/unsorted" || fail "$work is full"
  rm -f "$work/items"
  sort -n -k1,1 -k2,2 "$work/unsorted" >"$work/extents" || fail "$work is full"
  rm -f "$work/unsorted"
}

# ---- OUT_DIR: files by number first, their names only when all of them are right --------------------------------

# From here on everything happens in OUT_DIR as the current directory, by relative paths: whoever moves it, or puts a
# link in the place of its name, leads nothing elsewhere.
make_staging() {
  if [ -d "$out" ]; then
    cd "$out" || fail "$out cannot be entered"
  else
    make_target
  fi
  is_ours_alone . || refuse_open_target
  held=$(ls -A .) || fail "$out cannot be read"
  [ -z "$held" ] || fail "$out is not empty; name a new or an empty directory"
  case $(pwd -P)/ in
    "$(cd "$store" && pwd -P)"/*) say "recover.sh: note: $out lies inside the store, and will hold plaintext there" ;;
  esac
  mkdir -m 700 .recoup-partial || fail "$out cannot be written"
  staging=.recoup-partial
  mkdir "$staging/files" "$staging/tree" || fail "$out cannot be written"
}

make_target() {
  above=${out%/*}
  mkdir -p "$above/" || fail "$out cannot be made"
  above=$(cd "$above/" && pwd -P) || fail "$out cannot be made"
  mkdir -m 700 "$out" || fail "$out cannot be made"
  out_made=yes
  cd "$out" || fail "$out cannot be entered"
  [ "$(pwd -P)" = "${above%/}/${out##*/}" ] || fail "$out was moved or replaced while this was running"
}

# A tool's complaint, once it has failed.
complain() {
  tr -cd '\n -~' <"$work/dd-says" | tail -n 1 >&2
}

# set_size FILE BYTES: makes it that long; what is missing is zero and takes no room.
set_size() {
  dd if=/dev/null of="$1" bs=1 seek="$2" count=0 2>"$work/dd-says" || {
    complain
    fail "$1 cannot be made $2 bytes long"
  }
}

make_files() {
  while IFS=$tab read -r number kind bytes rest; do
    [ "$kind" = file ] || continue
    is_number "$number" || fail 'the manifest has an odd entry'
    is_number "$bytes" || fail 'the manifest has a size that no file has'
    : >"$staging/files/$number" || fail "$out cannot be written"
    set_size "$staging/files/$number" "$bytes"
  done <"$work/entries"
}

# next_pack ORDINAL: opens that pack into $work/raw. Both lists are in the order of the packs.
next_pack() {
  while :; do
    IFS=' ' read -r ordinal used pack sha256 pack_size raw_bytes <&4 || fail 'a pack is missing from the list of packs'
    [ "$ordinal" != "$1" ] || break
  done
  { is_run "$used" && is_number "$pack" && is_number "$pack_size" && is_number "$raw_bytes"; } ||
    fail 'the list of packs is not what it should be'
  object=$folder/packs/$used/$pack.age
  done_packs=$((done_packs + 1))
  say "pack $done_packs of $all_packs: $object"
  fetch "$object" "$sha256" "$pack_size" - "$work/sealed"
  unseal "$object" "$work/sealed" "$raw_bytes" "$work/raw"
  [ "$size" -eq "$raw_bytes" ] || fail "$object is damaged: it holds $size bytes, not $raw_bytes"
  rm -f "$work/sealed"
}

write_blocks() {
  all_packs=$(cut -f 1 "$work/extents" | uniq | wc -l)
  all_packs=$((all_packs))
  done_packs=0
  open_pack=none
  exec 4<"$work/packs"
  while IFS=$tab read -r wanted raw_block number first blocks block_size; do
    for value in "$wanted" "$raw_block" "$number" "$first" "$blocks" "$block_size"; do
      is_number "$value" || fail 'the manifest has a number that is none'
    done
    if [ "$wanted" != "$open_pack" ]; then
      next_pack "$wanted"
      open_pack=$wanted
    fi
    dd if="$work/raw" of="$staging/files/$number" bs="$block_size" skip="$raw_block" seek="$first" count="$blocks" \
      conv=notrunc 2>"$work/dd-says" || {
      complain
      fail "$out cannot be written"
    }
  done <"$work/extents"
  exec 4<&-
  rm -f "$work/raw"
}

# ---- names, owners, modes --------------------------------------------------------------------------------------

# Makes directories and files. No link exists yet that anything could be put through.
place_files() {
  while IFS=$tab read -r number kind bytes mode uid gid stored target; do
    is_safe_path "$stored" || fail "the manifest has the path $stored, which is not allowed"
    to=$staging/tree/$decoded
    case $decoded in
      */*) mkdir -p "${to%/*}" || fail "the directory of $stored cannot be made" ;;
    esac
    case $kind in
      directory) mkdir -p "$to" || fail "$stored cannot be made" ;;
      file)
        must_be_free "$to"
        # The last block was padded.
        set_size "$staging/files/$number" "$bytes"
        size_of "$staging/files/$number" || fail "$stored cannot be read"
        [ "$size" -eq "$bytes" ] || fail "$stored has $size bytes, not $bytes"
        mv "$staging/files/$number" "$to" || fail "$stored cannot be made"
        ;;
    esac
  done <"$work/entries"
}

# Makes links, in directories that are all there: a link among those, with something below it, stands in the way.
place_links() {
  while IFS=$tab read -r number kind bytes mode uid gid stored target; do
    [ "$kind" = link ] || continue
    is_safe_path "$stored" || fail "the manifest has the path $stored, which is not allowed"
    to=$staging/tree/$decoded
    must_be_free "$to"
    decode "$target" || fail "the link $stored points to something that cannot be"
    ln -s -- "$decoded" "$to" || fail "$stored cannot be made"
  done <"$work/entries"
}

must_be_free() {
  if [ -e "$1" ] || [ -L "$1" ]; then
    fail "the manifest contradicts itself: something stands at $stored already"
  fi
}

# finish WHICH BASE: gives owners and modes, the deepest first. A directory at the top can be moved only while it is
# still writable, so those come `after`.
strangers=
special=
finish() {
  while IFS=$tab read -r number kind bytes mode uid gid stored target; do
    turn=before
    case $kind:$stored in
      directory:*/*) ;;
      directory:*) turn=after ;;
    esac
    [ "$turn" = "$1" ] || continue
    { is_safe_path "$stored" && is_number "$uid" && is_number "$gid"; } || fail 'the manifest has an odd entry'
    if [ "$kind" = link ]; then
      chown -h "$uid:$gid" "$2/$decoded" 2>/dev/null || strangers=yes
      continue
    fi
    if ! chown "$uid:$gid" "$2/$decoded" 2>/dev/null; then
      strangers=yes
      mode=0${mode#?}
    fi
    # Programs that run as their owner are nothing that a stolen key may plant.
    case $kind:$mode in
      file:[1-7]*)
        special=yes
        mode=0${mode#?}
        ;;
    esac
    # Who runs as somebody else is nobody that an unsigned manifest may name.
    [ -z "$unsigned" ] || mode=0${mode#?}
    chmod "$mode" "$2/$decoded" || fail "$stored cannot be given mode $mode"
  done <"$work/backwards"
}

# ---- all is right: into place ----------------------------------------------------------------------------------

publish() {
  cut -f 7 "$work/entries" | cut -d / -f 1 | sort -u >"$work/top" || fail "$work is full"
  published=$work/published
  : >"$published"
  while IFS= read -r stored; do
    is_safe_path "$stored" || fail 'the manifest has an odd entry'
    if [ -e "./$decoded" ] || [ -L "./$decoded" ]; then
      fail "somebody else put $stored into $out meanwhile"
    fi
    printf '%s\n' "$stored" >>"$published" || fail "$work is full"
    mv "$staging/tree/$decoded" "./$decoded" || fail "$stored cannot be moved into $out"
  done <"$work/top"
  finish after .
  sync || fail "$out cannot be written to its disk"
  [ "$(cd "$out" && pwd -P)" = "$(pwd -P)" ] || fail "$out was moved or replaced while this was running"
  published=
  out_made=
  [ -z "$strangers" ] || say 'recover.sh: note: some owners could not be set; what was theirs is yours now'
  [ -z "$special" ] || say 'recover.sh: note: set-user-id, set-group-id and sticky bits of files are not restored'
  say "recover.sh: snapshot $padded-$run of $source is restored in $out"
}

main() {
  read_arguments "$@"
  check_tools
  find_store
  check_identity
  check_target
  make_scratch
  read_repository
  choose_snapshot
  check_signature
  read_inventory
  read_runs
  read_root
  read_parts
  read_items
  make_staging
  make_files
  write_blocks
  place_files
  place_links
  sort -n -r -k1,1 "$work/entries" >"$work/backwards" || fail "$work is full"
  finish before "$staging/tree"
  sync || fail "$out cannot be written to its disk"
  publish
}

# Last, so that a script that was cut short does nothing.
main "$@"
