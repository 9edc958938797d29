"""Completion in bash, zsh and fish: the shell scripts, and `--install-completion`, which installs them for all commands.

The script runs the command with _CNN_NAME_COMPLETE=complete_SHELL and, in COMP_WORDS, the line up to the cursor. It reads lines of three
fields, separated by the character 31 (`cnnkit.cli.completing` prints them):

    word    the word at the cursor, without quotes    the quote that is open, " or ', or nothing
    plain   a candidate                               its help
    open    a candidate after which no space follows
    file    the start of a path                       extensions to list, or *; folders are always listed
    dir     the start of a path; folders only

The scripts of typer list no files by type, and break words at spaces and colons.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnnkit.errors import UsageError
from cnnkit.formats import atomic

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_BASH = r"""
# Completion of cnnkit's commands in bash 4.4 or newer, written by --install-completion.
_cnnkit_completion() {
    local name=${1##*/} kind value more each opened= suffix cut= quote= breaks=${COMP_WORDBREAKS//[^=:]}
    name=${name//-/_}
    COMPREPLY=()
    while IFS=$'\x1f' read -r kind value more; do
        case $kind in
        word)
            quote=$more
            if [[ -z $quote && -n $breaks && $value == *["$breaks"]* ]]; then cut=${value%"${value##*["$breaks"]}"}; fi ;;
        plain | open)
            if [[ $kind == open ]]; then compopt -o nospace; opened=$value; fi
            if [[ -z $quote ]]; then printf -v value %q "$value"; value=${value//\\,/,}; fi
            COMPREPLY+=("${value#"$cut"}") ;;
        file | dir)
            compopt -o filenames
            while IFS= read -r each; do
                if [[ ${each##*/} == .* && ${value##*/} != .* ]]; then continue; fi
                suffix=.${each##*.}
                if [[ $more == "*" || " $more " == *" ${suffix,,} "* || -d ${each/#\~/$HOME} ]]; then
                    COMPREPLY+=("${each#"$cut"}")
                fi
            done < <(compgen -f -- "$value") ;;
        esac
    done < <(COMP_WORDS=${COMP_LINE:0:COMP_POINT} env "_${name^^}_COMPLETE=complete_bash" "${1/#\~/$HOME}" 2>/dev/null </dev/null)
    # of one word, readline would close the quote
    if [[ -n $quote && -n $opened && ${#COMPREPLY[@]} == 1 ]]; then COMPREPLY+=("$COMPREPLY "); fi
}
complete -F _cnnkit_completion %(names)s
""".strip()

_ZSH = r"""
#compdef %(names)s
# Completion of cnnkit's commands in zsh, written by --install-completion.
_cnnkit() {
    local command=${(Q)words[1]} line value more
    command=${command/#\~/$HOME}
    local -a fields plain shown open globs
    local variable=_${(U)${${command:t}//-/_}}_COMPLETE folders=0
    local text="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX"
    for line in ${(f)"$(COMP_WORDS=$text env $variable=complete_zsh $command 2>/dev/null </dev/null)"}; do
        fields=("${(@ps:\x1f:)line}")
        value=$fields[2] more=$fields[3]
        case $fields[1] in
        plain) plain+=("$value") shown+=("$value${more:+  -- $more}") ;;
        open) open+=("$value") ;;
        file) if [[ $more == '*' ]]; then globs+=('*'); else globs+=("(#i)*(${(j:|:)${=more}})(-.)"); fi ;;
        dir) folders=1 ;;
        esac
    done
    compset -P '--[^=]#='
    local ret=1
    if (( $#plain )); then
        if [[ "$shown" == *'  -- '* ]]; then compadd -l -d shown -a plain && ret=0; else compadd -a plain && ret=0; fi
    fi
    if (( $#open )); then compadd -S '' -a open && ret=0; fi
    if (( $#globs )); then _files -g "$globs[1]" && ret=0; fi
    if (( folders )); then _path_files -/ && ret=0; fi
    return ret
}
_cnnkit "$@"
""".strip()

_FISH_FUNCTION = r"""
# Completion of cnnkit's commands in fish, written by --install-completion.
function __cnnkit_complete
    set -l words (commandline -opc)
    set -l name (string replace -a -- - _ (basename -- $words[1]) | string upper)
    set -l token (commandline -ct)
    set -l option (string match -r -- '^--[^=]*=' $token)
    set -l program (string replace -r '^~' $HOME $words[1])
    set -l text (commandline -cp | string collect)
    for line in (env COMP_WORDS=$text _"$name"_COMPLETE=complete_fish $program 2>/dev/null </dev/null)
        set -l fields (string split \x1f -- $line)
        switch $fields[1]
            case plain open
                printf '%s\t%s\n' "$option$fields[2]" "$fields[3]"
            case file dir
                set -l wanted (string replace -a . '\\.' -- "$fields[3]" | string replace -a ' ' '|')
                for each in (complete -C "__fish_command_without_completions "(string replace -- "$option" '' $token))
                    set -l path (string split -f 1 \t -- $each)
                    if test "$wanted" = '*'; or string match -q -- '*/' $path
                        printf '%s\n' "$option$path"
                    else if test -n "$wanted"; and string match -qir -- "($wanted)\$" $path
                        printf '%s\n' "$option$path"
                    end
                end
        end
    end
end
""".strip()
_FISH = "complete --command %(names)s --no-files --arguments '(__cnnkit_complete)'"

_SHELLS = ("bash", "zsh", "fish")


def wire(command: Any, name: str) -> None:  # noqa: ANN401 - typer's own click is private
    """Replace typer's completion options by ours and, during a completion, set what completes each parameter."""
    for parameter in command.params:
        if parameter.name == "install_completion":
            parameter.callback, parameter.help = _install, "Install completion of all cnnkit commands for this shell."
        elif parameter.name == "show_completion":
            parameter.callback, parameter.help = _show, "Print the script for this shell that completes all commands."
    if f"_{name.replace('-', '_').upper()}_COMPLETE" not in os.environ:
        return

    from cnnkit.cli import completing  # not above: it uses internals of typer, which a run does not need

    completing.wire(command, _SHELLS)


def entries() -> "list[EntryPoint]":
    """List the commands that are installed."""
    from importlib.metadata import distribution  # not above: it takes as long as a tenth of a command's start

    return sorted(each for each in distribution("cnnkit").entry_points if each.module.startswith("cnnkit_tools."))


def commands() -> list[str]:
    """List the names of the commands that are installed."""
    return [each.name for each in entries()]


def scripts(shell: str) -> dict[Path, str]:
    """Return the files that complete all commands in a shell: text by path."""
    home = Path.home()
    names = " ".join(commands())
    if shell == "bash":
        return {home / ".bash_completions" / "cnnkit.sh": _BASH.replace("%(names)s", names) + "\n"}
    if shell == "zsh":
        return {home / ".zfunc" / "_cnnkit": _ZSH.replace("%(names)s", names) + "\n"}
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "fish"
    completions = {
        settings / "completions" / f"{name}.fish": _FISH.replace("%(names)s", name) + "\n" for name in commands()
    }
    return {settings / "functions" / "__cnnkit_complete.fish": _FISH_FUNCTION + "\n", **completions}


def install(shell: str) -> Path:
    """Write the scripts, and load them from the start-up file of the shell. A second installation changes nothing.

    Returns:
        The script; for fish, the folder of the scripts.
    """
    written = scripts(shell)
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, text)
    if shell == "bash":
        _add_line(Path.home() / ".bashrc", "source ~/.bash_completions/cnnkit.sh")
    elif shell == "zsh":
        settings = Path(os.environ.get("ZDOTDIR") or Path.home())
        _add_line(settings / ".zshrc", "fpath+=~/.zfunc; autoload -Uz compinit; compinit")
        (settings / ".zcompdump").unlink(missing_ok=True)  # compinit's cache, which may lack new commands
        for name in commands():  # typer's scripts would take precedence
            (Path.home() / ".zfunc" / f"_{name}").unlink(missing_ok=True)
    return path.parent if shell == "fish" else path


def _add_line(path: Path, line: str) -> None:
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if line not in text.splitlines():
        _write(path, f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n")


def _write(path: Path, text: str) -> None:
    with atomic.writing(path) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def _shell() -> str:
    from typer._completion_shared import _get_shell_name

    name = _get_shell_name() or Path(os.environ.get("SHELL", "")).name
    if name not in _SHELLS:
        raise UsageError(f"completion is available for {', '.join(_SHELLS)}, not for {name or 'this shell'}")
    return name


def _install(context: typer.Context, _parameter: Any, value: Any) -> Any:  # noqa: ANN401 - as click calls it
    if value and not context.resilient_parsing:
        shell = _shell()
        print(f"{shell}: completion of all cnnkit commands installed in {install(shell)}; open a new shell to use it")  # noqa: T201
        raise typer.Exit
    return value


def _show(context: typer.Context, _parameter: Any, value: Any) -> Any:  # noqa: ANN401 - as click calls it
    if value and not context.resilient_parsing:
        print("".join(scripts(_shell()).values()), end="")  # noqa: T201
        raise typer.Exit
    return value
