"""The conformance suite: what every engine must do, through the public API alone. Needs the extra `testing`.

A test module of an engine subclasses `Conformance` and defines the fixture `new_url`; pytest finds the tests:

    class TestMine(Conformance):
        @pytest.fixture
        def new_url(self):
            return lambda: f"mine://{uuid4()}"

1. Nothing here looks inside an engine. Tests that need what an engine does not offer ask its capabilities,
   and then check that the engine refuses it.
2. Each test gets an empty store of its own. `RandomTests` does the same random things to many new stores and
   to directories, and compares all answers.
3. Nothing else in evlog imports this package, pytest or hypothesis.
"""

import pytest

# Before the modules are imported: a failed assert then shows its values.
pytest.register_assert_rewrite(
    *(
        f"evlog.testing.{module}"
        for module in (
            "appending",
            "base",
            "closing",
            "comparison",
            "conditions",
            "content",
            "deciding",
            "following",
            "mirroring",
            "reading",
            "redaction",
            "retention",
            "schemas",
            "shapes",
            "states",
            "subscriptions",
            "tags",
        )
    )
)

from evlog.testing.appending import AppendTests  # noqa: E402
from evlog.testing.base import LONG_SECONDS, EngineTests, NewStore, OpenStore, stores_by_url  # noqa: E402
from evlog.testing.closing import CloseTests  # noqa: E402
from evlog.testing.comparison import Comparison, RandomTests, compare_with_directory  # noqa: E402
from evlog.testing.conditions import ConditionTests  # noqa: E402
from evlog.testing.content import ContentTests  # noqa: E402
from evlog.testing.deciding import DecideTests  # noqa: E402
from evlog.testing.following import FollowTests  # noqa: E402
from evlog.testing.mirroring import MirrorTests  # noqa: E402
from evlog.testing.reading import ReadTests  # noqa: E402
from evlog.testing.redaction import RedactionTests  # noqa: E402
from evlog.testing.retention import RetentionTests  # noqa: E402
from evlog.testing.schemas import SchemaTests  # noqa: E402
from evlog.testing.shapes import ShapeTests  # noqa: E402
from evlog.testing.states import StateTests  # noqa: E402
from evlog.testing.subscriptions import SubscriptionTests  # noqa: E402
from evlog.testing.tags import TagTests  # noqa: E402

__all__ = [
    "LONG_SECONDS", "AppendTests", "CloseTests", "Comparison", "ConditionTests", "Conformance",
    "ContentTests", "DecideTests", "EngineTests", "FollowTests", "MirrorTests", "NewStore", "OpenStore",
    "RandomTests", "ReadTests", "RedactionTests", "RetentionTests", "SchemaTests", "ShapeTests", "StateTests",
    "SubscriptionTests", "TagTests", "compare_with_directory", "stores_by_url",
]  # fmt: skip


class Conformance(
    RandomTests,  # pytest runs the first base last: a failure of random calls takes long to reduce
    AppendTests,
    ReadTests,
    RedactionTests,
    CloseTests,
    FollowTests,
    SubscriptionTests,
    StateTests,
    ShapeTests,
    RetentionTests,
    MirrorTests,
    TagTests,
    ContentTests,
    ConditionTests,
    DecideTests,
    SchemaTests,
):
    """All tests of the suite. The modules of this package hold one topic each."""
