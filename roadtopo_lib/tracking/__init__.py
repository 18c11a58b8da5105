"""Lanes in videos: the same number for the same lane from frame to frame, and films with the lanes drawn in."""

from roadtopo_lib.tracking.tracks import LaneTracker, TrackedLane
from roadtopo_lib.tracking.video import Followed, follow_video

__all__ = ["Followed", "LaneTracker", "TrackedLane", "follow_video"]
