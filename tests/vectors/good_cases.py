"""The good cases of a release: every transition of the story, and three side paths."""

from __future__ import annotations

from typing import Any

from vectors import replay, values
from vectors.notation import difference, read, write
from vectors.story import Story, name_of
from vectors.world import AGGREGATOR, World

from fedit_secure.secagg import messages as m

Json = dict[str, Any]

# What a silo does when it takes a message of this name.
SILO_STEPS = {
    "offer": ("advertise", "draws its keys and secrets and advertises them"),
    "u1": ("share", "deals shares of its secrets to all of U1"),
    "u2": ("mask", "masks its update over U2"),
    "ack": ("acknowledge", "notes that its upload is held"),
    "u3": ("agree", "signs the survivors"),
    "quorum": ("reveal", "gives one share per peer"),
    "published": ("release", "verifies the sum"),
    "applied": ("confirm", "signs the state that the sum gave"),
}
AGGREGATOR_STEPS = {
    "advert 5": ("advertise", "seals U1 with the last advert"),
    "bundle 5": ("share", "seals U2 with the last bundle"),
    "upload 0": ("mask", "acknowledges an upload"),
    "deadline": ("mask", "seals U3 without silo 4, which is late"),
    "agreement 5": ("agree", "has four agreements, and waits for silo 1"),
    "deadline 2": ("agree", "shows the quorum, without silo 1"),
    "reveal 5": ("release", "opens a secret of each of U2 and publishes the sum"),
    "confirmation 3": ("confirm", "shows c + 1 equal words to those that wait"),
    "confirmation 5": ("confirm", "has t equal words: the state is certified"),
}


def written(story: Story) -> dict[str, Json]:
    """Every message of a story, as the files have it."""
    return {name: write(message) for name, message in story.messages.items()}


def named(story_messages: dict[str, Json], given: list[Any]) -> list[str]:
    """The outcome of a step, its messages by name."""
    names = {repr(message): name for name, message in story_messages.items()}
    return [x if isinstance(x, str) else names[repr(x)] for x in given]


def of_silos(story: Story) -> list[tuple[str, Json]]:
    """(file, case) of every transition of a silo."""
    messages, made = written(story), []
    for silo in range(story.world.params.silos):
        for name, step in story.steps[silo]:
            file, comment = SILO_STEPS[name.partition(" ")[0]]
            case: Json = {
                "name": f"{file}_silo_{silo}",
                "comment": f"Silo {silo} {comment}.",
                "party": f"silo {silo}",
                "takes": story.took(silo, name),
                "gives": named(messages, replay.outcome(step)),
            }
            found = values.of(story.world, silo, name, step)
            made.append((file, {**case, **({"values": found} if found else {})}))
    return made


def of_the_aggregator(story: Story) -> list[tuple[str, Json]]:
    """(file, case) of its transitions that send something, or seal a phase."""
    messages, made, taken, deadlines = written(story), [], [], 0
    for name, step in story.steps[AGGREGATOR]:
        taken.append(name)
        deadlines += name == "deadline"
        key = "deadline 2" if (name, deadlines) == ("deadline", 2) else name
        if key not in AGGREGATOR_STEPS:
            continue
        file, comment = AGGREGATOR_STEPS[key]
        case: Json = {
            "name": f"{file}_aggregator_{key.replace(' ', '_')}",
            "comment": f"The aggregator {comment}.",
            "party": "aggregator",
            "takes": list(taken),
            "gives": named(messages, replay.outcome(step)),
        }
        found = values.of(story.world, AGGREGATOR, name, step)
        made.append((file, {**case, **({"values": found} if found else {})}))
    return made


class SidePath:
    """Cases beside the story; what they send is added to its messages."""

    def __init__(self, world: World, messages: dict[str, Json]) -> None:
        self.world, self.messages, self.made = world, messages, list[Any]()

    def add(self, file: str, name: str, comment: str, party: str, **rest: Any) -> None:
        """`rename`: what to call a message that has the name of the story's."""
        rename = rest.pop("rename", {})
        case: Json = {"name": name, "comment": comment, "party": party, **rest}
        step = replay.run(self.world, self.messages, case)
        who, gives = replay.party_of(case), []
        for effect in step.effects:
            if isinstance(effect, m.Send):
                title = name_of(effect.message, who, effect.to)
                title = rename.get(title, title)
                known = self.messages.setdefault(title, write(effect.message))
                assert known == write(effect.message), title
                gives += [title] if title not in gives else []
            else:
                gives += replay.outcome(replay.Step(None, None, None, (effect,)))
        self.made.append((file, {**case, "gives": gives}))


def beside(story: Story, messages: dict[str, Json]) -> list[tuple[str, Json]]:
    """A silo that is left out as late; an attempt that is voided; checks by anybody."""
    world, path = story.world, SidePath(story.world, messages)
    path.add(
        "agree",
        "agree_silo_0_late",
        "Its upload wasn't acknowledged, so that it may be left out: it helps the others.",
        "silo 0",
        takes=["offer", "u1", "u2 to 0", "u3"],
        changes={"u3": without_first(world, messages["u3"])},
        rename={"agreement 0": "agreement 0 as a late one"},
    )
    asked = [*(f"advert {i}" for i in range(6)), *(f"bundle {i}" for i in range(6))]
    sealed = [*asked, *(f"upload {i}" for i in range(4)), "deadline"]
    late = (
        "Silo 5's upload comes after U3 was sealed: it is neither added nor answered."
    )
    path.add("mask", "mask_aggregator_late", late, "aggregator",
             takes=[*sealed, "upload 5"])  # fmt: skip
    what = "The same advert again, which isn't answered."
    path.add("advertise", "advertise_aggregator_repeated", what, "aggregator",
             takes=["advert 0", "advert 0"])  # fmt: skip
    old = {**messages["advert 0"], "ctx": bytes(32).hex()}
    what = "Silo 0's advert of another attempt, which is late and no fault."
    path.add("advertise", "advertise_aggregator_other_attempt", what, "aggregator",
             takes=["advert 0"], changes={"advert 0": difference(
                 messages["advert 0"], signed_again(world, 0, old))})  # fmt: skip
    asked += ["upload 0", "upload 1", "upload 2", "deadline"]
    too_few = "Three uploads are too few: the aggregator asks to close the attempt."
    what = ("void", "void_aggregator_deadline", too_few, "aggregator")
    path.add(*what, takes=asked)
    history = {
        0: ["offer", "u1", "u2 to 0"],
        2: ["offer", "u1", "u2 to 2", "ack to 2"],
        3: ["offer", "u1"],
        5: [],
    }
    for silo, before in history.items():
        state = ("not invited yet", "", "shared", "masked", "masked")[len(before)]
        comment = f"Silo {silo}, {state}, closes the attempt."
        what = ("void", f"void_silo_{silo}", comment, f"silo {silo}")
        path.add(*what, takes=[*before, "void request"])
    own = "Silo 3 closes the attempt at its own deadline, with the same words."
    what = ("void", "void_silo_3_deadline", own, "silo 3")
    path.add(*what, takes=["offer", "u1", "deadline"])
    words = [*asked, *(f"void {i}" for i in history)]
    what = ("void", "void_aggregator_certificate", "Four words are t.", "aggregator")
    path.add(*what, takes=words)
    for file, name in (("void", "void certificate"), ("confirm", "certificate of 4")):
        comment = "Anybody with the charter can check it."
        case = f"{name.replace(' ', '_')}_checked"
        path.add(file, case, comment, "anybody", takes=[name])
    return path.made


def without_first(world: World, u3: Json) -> list[Json]:
    """The patch that takes silo 0 from U3, signed again by the aggregator."""
    shown = {**u3, "headers": u3["headers"][1:]}
    return difference(u3, signed_again(world, AGGREGATOR, shown))


def signed_again(world: World, party: int, message: Json) -> Json:
    """A changed message with the party's signature over it."""
    digest = read(message).signed_digest()
    return {**message, "signature": world.key(party).sign(digest).hex()}
