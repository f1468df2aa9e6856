"""How bash and click speak about completion; for zsh and fish click's own ways are right."""

import os
from typing import ClassVar, Final

from click.shell_completion import BashComplete, split_arg_string

# readline breaks words at colons, which are in most names of images. So the words are taken from
# the line, and what is before the last colon is taken off the answers: readline has it already.
_BASH: Final = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} type value
    local current=${line##*[[:space:]]}
    local before=
    if [[ $COMP_WORDBREAKS == *:* ]]; then
        before=${current%%"${current##*:}"}
    fi
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$before"}") ;;
        esac
    done < <(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class LineComplete(BashComplete):
    """For bash: by the line as it was typed."""

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one at the cursor, and that one."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)[1:]
        if not words or line[-1:].isspace():
            return words, ""
        return words[:-1], words[-1]
