"""Soft labels of two teachers whose heads differ: one is better at large classes, the other at small ones."""

from ltdd_core import Labeller, Named, SoftLabels, hookimpl, option


class TwoHeads(Labeller):
    """The mean probabilities of two teachers."""

    class Options(Labeller.Options):
        """Their heads."""

        first: Named = option("linear", "classifier head that trains the first teacher", component="head")
        second: Named = option("balanced-softmax", "classifier head that trains the second", component="head")

    def prepare(self, task):
        """Train the teachers, or find them."""
        self.teachers = [task.trained(head=head) for head in (self.options.first, self.options.second)]

    def label(self, images):
        """The mean of what they say."""
        first, second = (teachers.probabilities(images) for teachers in self.teachers)
        return SoftLabels((first + second) / 2)

    def teacher_bytes(self):
        """Both of them."""
        return sum(teachers.bytes for teachers in self.teachers)


@hookimpl
def ltdd_register_labellers(register):
    """``--labeller two-heads``."""
    register("two-heads", TwoHeads)
