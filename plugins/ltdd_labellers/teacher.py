"""Teachers: what classifiers of the long-tailed set say of the synthetic images."""

from __future__ import annotations

from torch import Tensor

from ltdd_core import Labeller, Labelling, SoftLabels, TeacherOptions, Teachers, option


class TeacherLabeller(Labeller):
    """The mean of the logits of several teachers."""

    class Options(Labeller.Options):
        """The teachers."""

        teacher: TeacherOptions = option(
            TeacherOptions(head="balanced-softmax"), "the teachers, debiased ones: plain ones forget rare classes"
        )

    def prepare(self, task: Labelling) -> None:
        """Train the teachers, or find them."""
        options: TeacherOptions = self.options.teacher
        self.teachers: Teachers = task.trained.of(options, options.network)

    def label(self, images: Tensor) -> SoftLabels:
        """The mean logits of the teachers."""
        return self.teachers.soft_labels(images)

    def teacher_bytes(self) -> int:
        """The parameters of all teachers in float32."""
        return self.teachers.bytes
