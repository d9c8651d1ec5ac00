"""Makes logs of inspect, in a process of its own: inspect_ai asks its model for tests, which says what it is told to.

python tests/data/logs/make_inspect.py DIRECTORY
"""

import sys
from pathlib import Path

import inspect_ai
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.scorer import choice, match
from inspect_ai.solver import generate, multiple_choice
from inspect_ai.tool import ToolCall

BEFORE = "ABCDABCDABCA"
AFTER = ["A", "B", "C", "C", "B", "", "D", "D", "A", "B", "A", "D"]


def evaluate(directory, said, *, scorers=None, asked=(), **how):
    """A task of 12 questions, whose right answers are A, B, C, D, A and so on."""
    samples = [
        Sample(f"Question {i}?", choices=["one", "two", "three", "four"], target="ABCD"[i % 4], id=f"q{i:02}")
        for i in range(12)
    ]
    solver = multiple_choice(**dict(asked))
    task = inspect_ai.Task(dataset=MemoryDataset(samples), solver=solver, scorer=scorers or choice(), name="quiz")
    outputs = [ModelOutput.from_content("mockllm/model", f"ANSWER: {one}" if one else "Well.") for one in said]
    for output in outputs:
        output.usage = ModelUsage()  # else it counts tokens, with a tokenizer that it downloads
    model = get_model("mockllm/model", custom_outputs=outputs, memoize=False)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(directory), display="none", max_samples=1, **how)
    assert log.status == "success", log.error


def talk(directory):
    """Two samples whose inputs are conversations, one with a call of a tool."""
    called = ChatMessageAssistant(content="", tool_calls=[ToolCall(id="1", function="add", arguments={"a": 1})])
    asked = [
        [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="Who?")],
        [ChatMessageUser(content="Add."), called, ChatMessageTool(content="2", tool_call_id="1", function="add")],
    ]
    samples = [Sample(one, target="Me", id=f"t{i}") for i, one in enumerate(asked)]
    task = inspect_ai.Task(dataset=MemoryDataset(samples), solver=generate(), scorer=match(), name="talk")
    outputs = [ModelOutput.from_content("mockllm/model", "Me") for _ in samples]
    for output in outputs:
        output.usage = ModelUsage()
    model = get_model("mockllm/model", custom_outputs=outputs, memoize=False)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(directory), display="none", max_samples=1)
    assert log.status == "success", log.error


def main():
    out = Path(sys.argv[1])
    talk(out / "talk")
    evaluate(out / "before", BEFORE)
    evaluate(out / "after", AFTER, log_format="json")
    evaluate(out / "other", AFTER, asked={"template": "Think of {letters}.\n{question}\n{choices}"})
    for name, said in (("before", BEFORE), ("after", AFTER)):
        evaluate(out / "scorers" / name, said, scorers=[choice(), match()])
        evaluate(out / "epochs" / name, [*said, *said], epochs=2)


if __name__ == "__main__":
    main()
