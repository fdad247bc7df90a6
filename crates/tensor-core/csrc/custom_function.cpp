// An autograd node whose backward is written in Rust.
//
// Ownership: the node owns the Rust closure and drops it in its destructor, which the last
// tensor that refers to the node triggers, on whatever thread. Tensors that backward needs are
// held as SavedVariable: libtorch then detects their in-place modification, frees them after
// backward, and an output that is saved does not keep itself alive through its own node.

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include "shim.h"

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Takes ownership of `saved` and `grads` (nullptr: absent), and writes one owned tensor or
// nullptr an input to `input_grads`. Returns nullptr or a malloc'd message.
using BackwardFn = char* (*)(void* closure, at::Tensor** saved, size_t saved_count,
                             at::Tensor** grads, size_t grad_count, const bool* needs,
                             at::Tensor** input_grads, size_t input_count);
using DropFn = void (*)(void* closure);

namespace {

at::Tensor* to_heap(at::Tensor tensor) {
  return tensor.defined() ? new at::Tensor(std::move(tensor)) : nullptr;
}

class RustNode : public Node {
 public:
  RustNode(std::string name, void* closure, BackwardFn backward, DropFn drop)
      : name_(std::move(name)), closure_(closure), backward_(backward), drop_(drop) {}
  RustNode(const RustNode&) = delete;
  RustNode& operator=(const RustNode&) = delete;
  ~RustNode() override { drop_(closure_); }

  std::string name() const override { return name_; }

  void save(std::vector<SavedVariable> saved) { saved_ = std::move(saved); }

  variable_list apply(variable_list&& grads) override {
    // One backward at a time: the closure need not be shareable between threads.
    std::lock_guard<std::mutex> lock(mutex_);
    // Unpacking can throw (freed, or modified in place), so it comes before any raw pointer.
    variable_list unpacked;
    for (const SavedVariable& variable : saved_) {
      unpacked.push_back(variable.unpack(shared_from_this()));
    }
    std::vector<at::Tensor*> saved_ptrs, grad_ptrs;
    for (at::Tensor& tensor : unpacked) saved_ptrs.push_back(to_heap(std::move(tensor)));
    for (at::Tensor& tensor : grads) grad_ptrs.push_back(to_heap(std::move(tensor)));

    const size_t inputs = num_outputs();
    const std::unique_ptr<bool[]> needs(new bool[inputs]);
    for (size_t i = 0; i < inputs; ++i) needs[i] = task_should_compute_output(i);
    std::vector<at::Tensor*> results(inputs, nullptr);
    char* message = backward_(closure_, saved_ptrs.data(), saved_ptrs.size(), grad_ptrs.data(),
                              grad_ptrs.size(), needs.get(), results.data(), inputs);
    variable_list input_grads(inputs);
    for (size_t i = 0; i < inputs; ++i) {
      const std::unique_ptr<at::Tensor> owned(results[i]);
      if (owned) input_grads[i] = std::move(*owned);
    }
    if (message) {
      const std::string text(message);
      free(message);
      throw std::runtime_error(name_ + ": " + text);
    }
    return input_grads;
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& variable : saved_) variable.reset_data();
  }

 private:
  std::string name_;
  void* closure_;
  BackwardFn backward_;
  DropFn drop_;
  std::vector<SavedVariable> saved_;
};

// The index of the output that `tensor` is, or -1.
int output_index(const at::Tensor& tensor, at::Tensor* const* outputs, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (tensor.unsafeGetTensorImpl() == outputs[i]->unsafeGetTensorImpl()) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

}  // namespace

// Gives `outputs`, computed without autograd from `inputs`, a node whose backward is `backward`.
// Writes one new tensor an output to `results`. Takes ownership of `closure` in every case.
SHIM_EXPORT char* b4_custom_function_attach(const char* name, at::Tensor* const* inputs,
                                            size_t input_count, at::Tensor* const* outputs,
                                            size_t output_count, at::Tensor* const* saved,
                                            size_t saved_count, void* closure,
                                            BackwardFn backward, DropFn drop,
                                            at::Tensor** results) {
  return shim_protect([&] {
    std::shared_ptr<RustNode> node(new RustNode(name, closure, backward, drop),
                                   torch::autograd::deleteNode);
    variable_list input_list;
    bool any_requires_grad = false;
    for (size_t i = 0; i < input_count; ++i) {
      input_list.push_back(*inputs[i]);
      any_requires_grad |= inputs[i]->requires_grad();
    }
    const bool record = any_requires_grad && at::GradMode::is_enabled();
    if (record) node->set_next_edges(torch::autograd::collect_next_edges(input_list));

    // A result is a tensor of its own on the output's memory, so that history set on it touches
    // neither an input that was returned as it is, nor the tensor that the closure may hold.
    variable_list wrapped;
    for (size_t i = 0; i < output_count; ++i) {
      wrapped.push_back(outputs[i]->variable_data());
      if (record) torch::autograd::set_history(wrapped.back(), node);
    }
    if (record) {
      std::vector<SavedVariable> kept;
      for (size_t i = 0; i < saved_count; ++i) {
        const int output = output_index(*saved[i], outputs, output_count);
        // An integer output has no history: it is saved like any other tensor.
        const bool is_output = output >= 0 && wrapped[output].requires_grad();
        kept.emplace_back(output >= 0 ? wrapped[output] : *saved[i], is_output);
      }
      node->save(std::move(kept));
    }
    for (size_t i = 0; i < output_count; ++i) results[i] = new at::Tensor(wrapped[i]);
  });
}
