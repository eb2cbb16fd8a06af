"""The application: its commands, and what becomes of errors.

Exit codes: 0 done; 1 a defect of ours; 2 the user's input is wrong; 3 stopped in a way that `run` resumes;
130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from seekr_lite.cli.chat import chat_command
from seekr_lite.cli.compare import compare_command
from seekr_lite.cli.data import data_app
from seekr_lite.cli.evaluate import evaluate_command
from seekr_lite.cli.export import export_command
from seekr_lite.cli.heads import heads_app
from seekr_lite.cli.plan import plan_command
from seekr_lite.cli.push import push_command
from seekr_lite.cli.recipes import recipes_app
from seekr_lite.cli.report import report_command
from seekr_lite.cli.run import run_command
from seekr_lite.cli.verify import verify_command
from seekr_lite.common.errors import Interrupted, UserError
from seekr_lite.common.processes import is_main_process, launched_count, says
from seekr_lite.common.terminal import printable

app = typer.Typer(
    name="seekr-lite",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example:  seekr-lite run recipes/quickstart.toml",
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"seekr-lite {version_of('seekr-lite')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Teach one language model task after task on one GPU, and keep the old tasks."""
    if launched_count() > 1 and context.invoked_subcommand != "run":
        raise UserError(
            f"{launched_count()} processes were started, and only `seekr-lite run` shares its work among processes; "
            "start this command without accelerate or torchrun"
        )


app.command("run", epilog="Example:  seekr-lite run recipes/quickstart.toml --set method.name=replay")(run_command)
app.command("plan", epilog="Example:  seekr-lite plan recipes/trace-llama2-7b.toml")(plan_command)
app.command("compare", epilog="Example:  seekr-lite compare recipes/quickstart.toml --methods replay,seekr")(
    compare_command
)
app.command("evaluate", epilog="Example:  seekr-lite evaluate runs/quickstart --after shade --task keeper")(
    evaluate_command
)
app.command("export", epilog="Example:  seekr-lite export runs/quickstart --to my-model --merge dequantized")(
    export_command
)
app.command("push", epilog="Example:  seekr-lite push runs/mine --to me/my-adapter --private")(push_command)
app.command("chat", epilog="Example:  seekr-lite chat runs/quickstart --after shade")(chat_command)
app.command("report", epilog="Example:  seekr-lite report runs/quickstart --output quickstart.html")(report_command)
app.command("verify", epilog="Example:  seekr-lite verify runs/quickstart")(verify_command)
app.add_typer(recipes_app, name="recipes")
app.add_typer(data_app, name="data")
app.add_typer(heads_app, name="heads")


def start() -> None:
    """Runs the command line; every error ends in one clear message and the right exit code."""
    quiet_libraries()
    try:
        app()
    except UserError as error:
        if says(error):
            say(f"error: {error}")
        sys.exit(error.exit_code)
    except Interrupted as error:
        if is_main_process():  # all processes of a run stop together
            say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say(interrupted())
        sys.exit(130)
    except SystemExit as end:
        if end.code == 130:  # typer has caught the KeyboardInterrupt, and says nothing
            say(interrupted())
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # of torch, which most commands never load
            say("error: out of memory: free the device of other programs, or lower the run's evaluate.batch_tokens")
            sys.exit(3)
        traceback.print_exc()
        say("This is a defect of seekr-lite. Please report it with the lines above and your recipe.")
        sys.exit(1)


def interrupted() -> str:
    """What Ctrl-C has done: only a run has something to go on with."""
    command = next((part for part in sys.argv[1:] if not part.startswith("-")), "")
    goes_on = "; the same command goes on from the last checkpoint or finished task"
    return "interrupted" + (goes_on if command in ("run", "compare") else "")


def say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def quiet_libraries() -> None:
    """Loading bars, advice and telemetry of the libraries are not the user's business."""
    settings = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if "transformers" in sys.modules:  # then it has read its settings already
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
